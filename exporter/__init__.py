"""edgewright: a trained model and the name of a device in; an artifact ready to ship there out, with proof that it is still the same model.

The public API, loaded on first use so that importing the package costs nothing::

    from exporter import export
    export(module, targets=["android-arm64-cpu"], inputs=(example,), calibration="photos/", out="bundles")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibration import Store
    from diagnostics import EdgewrightError
    from exporter.bundle.bundle import Bundle, read_bundle
    from exporter.calibrating import calibrate, merge_stores
    from exporter.converting import Converted, convert
    from exporter.exporting import Exported, export
    from exporter.frontends import Source, load
    from exporter.inspecting import inspect
    from exporter.placement.report import PlacementReport
    from exporter.quantization.plan import Encoding, Plan
    from exporter.verifying import Verified, verify

_HOMES = {
    "Bundle": "exporter.bundle.bundle",
    "Converted": "exporter.converting",
    "EdgewrightError": "diagnostics",
    "Encoding": "exporter.quantization.plan",
    "Exported": "exporter.exporting",
    "PlacementReport": "exporter.placement.report",
    "Plan": "exporter.quantization.plan",
    "Source": "exporter.frontends",
    "Store": "calibration",
    "Verified": "exporter.verifying",
    "calibrate": "exporter.calibrating",
    "convert": "exporter.converting",
    "export": "exporter.exporting",
    "inspect": "exporter.inspecting",
    "load": "exporter.frontends",
    "merge_stores": "exporter.calibrating",
    "read_bundle": "exporter.bundle.bundle",
    "verify": "exporter.verifying",
}

__all__ = [
    "Bundle",
    "Converted",
    "EdgewrightError",
    "Encoding",
    "Exported",
    "PlacementReport",
    "Plan",
    "Source",
    "Store",
    "Verified",
    "calibrate",
    "convert",
    "export",
    "inspect",
    "load",
    "merge_stores",
    "read_bundle",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""report.json and report.html: everything that was found out about one artifact, for people who must decide on it.

`ReportData` is plain data: a stage fills the sections that it has, and absent sections are left out of the page. The page needs no
network: style and plots are inline. Names come from the model, which is untrusted, so the template escapes all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from exporter.bundle.facts import ReportData

if TYPE_CHECKING:
    import jinja2

__all__ = ["page_environment", "report_html", "report_json"]


def report_json(data: ReportData) -> bytes:
    """All facts as JSON. Infinite and undefined numbers (the SQNR of equal outputs) are the strings "inf", "-inf", "nan"."""
    facts = {**asdict(replace(data, placement=None)), "verdict": data.verdict}
    facts["placement"] = data.placement.to_dict() if data.placement is not None else None
    return (json.dumps(_finite(facts), indent=1, allow_nan=False) + "\n").encode()


def report_html(data: ReportData) -> bytes:
    """The report as one self-contained page."""
    from exporter.bundle import plots

    names = tuple(dict.fromkeys(name for row in data.outputs for name in row.metrics))
    page = (
        page_environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            manifest=data.manifest,
            metric_names=names,
            lowest=sorted((row for row in data.layers if row.sqnr_db is not None), key=lambda row: row.sqnr_db or 0.0)[:3],
            sqnr_plot=plots.layer_sqnr(data.layers),
            range_plot=plots.activation_ranges(data.layers),
            size_plot=plots.layer_sizes(data.layers),
        )
    )
    return page.encode()


def page_environment() -> jinja2.Environment:
    """The templates of all pages, with the filters that they share; whatever a page is given is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("exporter.bundle", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, bytes=_bytes, quantity=_quantity, seconds=_seconds, ratio=_ratio, shape=_shape)
    return environment


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _number(value: float | None) -> str:
    """Four significant digits; a dash where there is no value."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.4g}".replace("-", "−", 1)


def _scaled(value: float, base: float, units: tuple[str, ...]) -> str:
    index = 0
    while abs(value) >= base and index < len(units) - 1:
        value, index = value / base, index + 1
    return f"{value:.{3 if value < 999.5 else 4}g} {units[index]}".rstrip()


def _bytes(value: int | None) -> str:
    return "–" if value is None else _scaled(value, 1024, ("B", "KiB", "MiB", "GiB"))


def _quantity(value: int | None, unit: str) -> str:
    if unit == "bytes" or value is None:
        return _bytes(value)
    return _scaled(value, 1000, ("", "k", "M", "G"))


def _seconds(value: float) -> str:
    return f"{value * 1e6:.3g} µs" if value < 1e-3 else f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def _ratio(before: int | None, after: int | None) -> str:
    """How much smaller: "4.0x smaller", "unchanged", "1.3x larger"."""
    if not before or not after:
        return ""
    if before == after:
        return "unchanged"
    return f"{before / after:.2f}× smaller" if before > after else f"{after / before:.2f}× larger"


def _shape(value: tuple[int, ...]) -> str:
    return "×".join(map(str, value)) or "scalar"

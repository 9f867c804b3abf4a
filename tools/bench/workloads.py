"""What is quantized: every model of the zoo, and MobileNetV2, as one ONNX file with its calibration and held-out samples beside it.

All sides read the same files, whatever environment they run in. A folder is made once and kept in the cache of `tools.fetch`, where the
artifacts go as well.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from calibration import Preprocess, open_samples
from tools import zoo
from tools.bench.convert import onnx_file
from tools.bench.nets import mobilenetv2
from tools.bench.peers import ONNX2TF_TENSORFLOW
from tools.bench.samples import read_samples, write_samples
from tools.fetch import build_once
from tools.zoo_cases import CASES, Case

__all__ = ["WORKLOADS", "Workload", "prepared"]

_MOBILENET: Final = "mobilenetv2"
_OPSETS: Final = range(13, 19)

WORKLOADS: Final[Mapping[str, Case]] = {
    **CASES,
    _MOBILENET: replace(CASES["efficientnet_lite0"], model=_MOBILENET),  # the same photos, prepared its own way
}


@dataclass(frozen=True)
class Workload:
    """A model's folder.

    It holds ``float.onnx``, which all sides read; of a module also ``module.pt2``, of a Keras model ``keras.h5``; ``float.tflite``, ours,
    for peers that read TFLite; ``calibration/`` and ``held_out/`` with one .npz a sample; ``artifacts/`` for what is made of them.
    """

    case: Case
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "float.onnx"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def samples(self, split: str) -> Callable[[], Iterator[dict[str, Any]]]:
        """The samples of a split, "calibration" or "held_out", as `open_samples` takes them: read anew on every pass."""
        return lambda: read_samples(self.folder / split)


def prepared(name: str) -> Workload:
    """The workload's folder, made where there is none yet. Raises what loading and reading raise."""
    case = WORKLOADS[name]
    place = f"bench-quantization-{name}-{case.samples}-{case.test_samples}"  # other samples are another folder
    found = Workload(case, build_once(place, lambda folder: _fill(folder, case)))
    found.artifacts.mkdir(exist_ok=True)
    return found


def _fill(folder: Path, case: Case) -> None:
    from exporter.frontends import load
    from exporter.pipeline import build
    from targets.loader import load_target
    from targets.precision import choose_precision

    if case.model in zoo.KERAS_MODELS:
        os.environ.setdefault("EDGEWRIGHT_TENSORFLOW", str(ONNX2TF_TENSORFLOW.interpreter()))
    made = mobilenetv2() if case.model == _MOBILENET else getattr(zoo, case.model)()
    source = load(_settled(onnx_file(made, folder / "float.onnx")))
    if case.model in zoo.KERAS_MODELS:
        shutil.copy(made["model"], folder / "keras.h5")
    if not isinstance(made["model"], Path):
        import torch

        torch.export.save(torch.export.export(made["model"], made["inputs"]), folder / "module.pt2")
    target = choose_precision(load_target("android-arm64-cpu"), "float32")
    (folder / "float.tflite").write_bytes(build(source, target, None).artifact.content)
    for split, spec, count in (
        ("calibration", case.calibration, case.samples),
        ("held_out", case.held_out, case.test_samples),
    ):
        samples = open_samples(spec, source.inputs, Preprocess.read(made.get("preprocess")), count)
        write_samples(folder / split, [info.name for info in source.inputs], samples)


def _settled(path: Path) -> Path:
    """The file at an opset that quantizers of ONNX know: theirs do not load where it has no scale a channel yet, or types of its own."""
    import onnx
    from onnx.version_converter import convert_version

    model = onnx.load(path)
    if next(entry.version for entry in model.opset_import if entry.domain == "") not in _OPSETS:
        onnx.save(convert_version(model, _OPSETS[-1]), path)
    return path

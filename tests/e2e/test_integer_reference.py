"""Whole models: the integer reference of the plan is the artifact on LiteRT's reference kernels, in every tensor."""

from itertools import islice

import numpy as np
import pytest

from calibration import open_samples
from exporter.pipeline import Options, build
from exporter.quantization import integers
from exporter.runtimes.session import open_session
from exporter.verification.kept import stored_layouts
from exporter.verification.reference import reference_parity
from exporter.verification.runner import ArtifactRunner
from targets import load_target
from tools import zoo

PHOTOS = {"efficientnet_lite0": zoo.calibration_photos, "digit_cnn": lambda: list(islice(zoo.calibration_digits(), 2))}


def static(target):
    """The target without kernels that quantize their input as they run: those compute with floats, of which there is no reference."""
    precisions = tuple(name for name in target.artifact.precisions if not name.startswith("dynamic"))
    return target.model_copy(update={"artifact": target.artifact.model_copy(update={"precisions": precisions})})


@pytest.mark.parametrize("name", ["digit_cnn", pytest.param("efficientnet_lite0", marks=pytest.mark.slow)])
def test_every_tensor_is_that_of_the_reference(name, request, tmp_path):
    pytest.importorskip("torch")
    source = request.getfixturevalue(name)
    samples = open_samples(PHOTOS[name](), source.inputs, source.preprocess, limit=2)
    built = build(source, static(load_target("android-arm64-cpu")), samples, Options(refine=False))
    path = tmp_path / "model.tflite"
    path.write_bytes(built.artifact.content)
    parity = reference_parity(built.graph, built.plan, path, samples)
    assert parity.samples == 2
    assert len(parity.layers) >= len(built.graph.graph) // 2
    assert [layer for layer in parity if layer.max_lsb] == []
    views = {value.name for node in built.graph.graph if node.op_type in ("Transpose", "Reshape") for value in node.outputs}
    assert set(parity.uncompared) <= views  # what moves nothing has no tensor of its own

    values = integers.run(built.graph, built.plan, sample := next(iter(samples)))
    with open_session("litert-ref", path) as session:
        outputs = ArtifactRunner(session, stored_layouts(built.graph, built.plan))(sample)
    for output, found in outputs.items():
        np.testing.assert_array_equal(built.plan.encodings[output].dequantize(values[output]), found)

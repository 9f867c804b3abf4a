"""Constants behind the flatbuffer: what a model over 2 GB needs, tried on one of some kilobytes by lowering the limit."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from diagnostics import TargetError
from exporter.backends.tflite.container import FLATBUFFER_LIMIT, Container
from exporter.backends.tflite.layout import assign
from exporter.backends.tflite.writer import write_tflite
from exporter.built import Written
from exporter.content import Content
from exporter.pipeline import check_limits
from exporter.quantization.planner import float_plan
from targets.releases.tflite import OUTSIDE_RELEASE
from tests.quantization.test_weights import KERNELS, net, normal, planned, target


def written(precision, limit):
    model, profile = net(), target(precision)
    plan = assign(model, float_plan(model, profile), "keep") if precision == "float32" else planned(model, profile)
    return write_tflite(model, plan, limit=limit, metadata={"note": b"read me"})


def run(path, feed, kernels):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = {"ref": "BUILTIN_REF", "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "xnnpack": "AUTO"}[kernels]
    interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=OpResolverType[resolver])
    interpreter.allocate_tensors()
    return next(iter(interpreter.get_signature_runner()(**feed).values()))


@pytest.mark.parametrize("precision", ["float32", "weight_int8", "dynamic_int8", "dynamic_int4"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_outside_and_inside_give_the_same_bits(tmp_path, precision, kernels):
    feed, found = normal(net()), []
    for limit in (FLATBUFFER_LIMIT, 0):
        path = tmp_path / f"{limit}.tflite"
        written(precision, limit).file.write(path)
        found.append(run(path, feed, kernels))
    np.testing.assert_array_equal(*found)


def test_constants_are_aligned_and_metadata_stays_inside():
    artifact = written("float32", 0)
    model = schema.Model.GetRootAs(artifact.content)
    outside = [buffer for index in range(model.BuffersLength()) if (buffer := model.Buffers(index)).Offset()]
    assert len(outside) == len(artifact.file.parts) // 2 > 5
    assert all(buffer.Offset() % 16 == 0 and buffer.DataIsNone() for buffer in outside)
    ends = [buffer.Offset() + buffer.Size() for buffer in outside]
    assert all(end <= following.Offset() for end, following in zip(ends, outside[1:], strict=False))
    assert ends[-1] == artifact.file.size == len(artifact.content)
    notes = {model.Metadata(i).Name(): model.Buffers(model.Metadata(i).Buffer()) for i in range(model.MetadataLength())}
    assert notes[b"note"].DataAsNumpy().tobytes() == b"read me"


def test_weights_are_not_copied():
    container = Container("d", limit=8)
    weight = np.arange(64, dtype=np.float32)
    container.tensor("w", (64,), "float32", None, weight)
    container.tensor("nothing", (0,), "float32", None, np.zeros(0, np.float32))
    content = container.content({}, {}, {})
    assert any(np.shares_memory(np.frombuffer(part), weight) for part in content.parts if isinstance(part, memoryview))
    assert bytes(content)[-256:] == weight.tobytes()


def test_the_release_is_one_that_reads_such_files():
    assert written("float32", 0).release == OUTSIDE_RELEASE
    old = target("float32", floor="tflite>=2.11")
    artifact = written("float32", 0)
    with pytest.raises(TargetError, match=r"needs TFLite 2\.14") as caught:
        check_limits(Written(artifact.file, ".tflite", emitted=artifact.emitted, release=artifact.release), old, "net")
    assert caught.value.code == "EW-T005"


def test_content_in_parts(tmp_path):
    content = Content((b"ab", memoryview(b"cde")))
    content.write(tmp_path / "f")
    assert (content.size, bytes(content), (tmp_path / "f").read_bytes()) == (5, b"abcde", b"abcde")

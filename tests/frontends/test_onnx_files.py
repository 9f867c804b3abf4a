import contextlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics import EdgewrightError
from exporter.frontends import load

WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)


def proto(shape="N,3,H,W", opset=13, weight=WEIGHT, as_constant=False, ir_version=8, as_input=False):
    inputs = f"float[{shape}] x" + (", float[4,3,3,3] w" if as_input else "")
    text = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> g ({inputs}) => (float[N,4,P,Q] y) {{ a = Conv(x, w) y = Relu(a) }}'
    model = onnx.parser.parse_model(text)
    tensor = onnx.numpy_helper.from_array(weight, "w")
    if as_constant:
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=tensor))
    else:
        model.graph.initializer.append(tensor)
    return model


@pytest.fixture
def save(tmp_path):
    def write(model, **options):
        path = tmp_path / "model.onnx"
        onnx.save(model, path, **options)
        return path

    return write


def error_of(path, **options) -> EdgewrightError:
    with pytest.raises(EdgewrightError) as error:
        load(path, **options)
    return error.value


SHAPES = {"x": (1, 3, 8, 8)}


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21])
@pytest.mark.parametrize("as_constant", [False, True])
def test_opsets_and_weights_in_either_place(save, opset, as_constant):
    source = load(save(proto(opset=opset, as_constant=as_constant)), shapes=SHAPES)
    assert source.outputs[0].shape == (1, 4, 6, 6)
    assert [node.op_type for node in source.model.graph] == ["Conv", "Relu"]
    x = np.ones((1, 3, 8, 8), np.float32)
    session = ir.to_proto(source.model).SerializeToString()
    import onnxruntime

    (y,) = onnxruntime.InferenceSession(session).run(None, {"x": x})
    np.testing.assert_allclose(y, source.reference({"x": x})["y"], rtol=0, atol=1e-5 * np.abs(y).max())


def test_weights_that_are_listed_as_inputs_are_weights(save):
    """Old exporters list every initializer as an input; onnx's IR version 3 wants it so."""
    source = load(save(proto(opset=9, ir_version=3, as_input=True)), shapes=SHAPES)
    assert [entry.name for entry in source.inputs] == ["x"]


def test_the_reference_keeps_its_dynamic_dimensions(save):
    source = load(save(proto()), shapes=SHAPES)
    assert source.reference({"x": np.zeros((5, 3, 9, 9), np.float32)})["y"].shape == (5, 4, 7, 7)


def test_dynamic_dimensions_need_values_and_the_batch_does_not(save):
    assert load(save(proto("N,3,8,8"))).inputs[0].shape == (1, 3, 8, 8)
    error = error_of(save(proto()))
    assert error.code == "EW-M006"
    assert "--shape x=1,3,224,224" in error.fix


def test_the_fingerprint_is_that_of_the_bytes(save, tmp_path):
    import hashlib

    path = save(proto("1,3,8,8"))
    assert load(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("as_constant", [False, True])
def test_a_weight_that_is_not_finite_is_named(save, bad, as_constant):
    weight = WEIGHT.copy()
    weight[1, 2, 0, 0] = bad
    error = error_of(save(proto(weight=weight, as_constant=as_constant)), shapes=SHAPES)
    assert error.code == "EW-M005"
    assert "'w'" in error.what


def test_an_infinite_bound_is_no_weight(save):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) <float low = {0}> { y = Clip(x, low, high) }'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(np.inf), "high"))
    assert load(save(model)).outputs[0].shape == (2,)


EXTERNAL = {"save_as_external_data": True, "all_tensors_to_one_file": True, "location": "model.data", "size_threshold": 0}


def test_external_data_is_read_and_counts_in_the_fingerprint(save, tmp_path):
    path = save(proto("1,3,8,8"), **EXTERNAL)
    before = load(path)
    np.testing.assert_array_equal(before.model.graph.initializers["w"].const_value.numpy(), WEIGHT)
    data = bytearray((tmp_path / "model.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "model.data").write_bytes(data)
    assert load(path).sha256 != before.sha256


@pytest.mark.parametrize("location", ["../outside.data", "/etc/hostname", "absent.data"])
def test_external_data_elsewhere_is_refused(tmp_path, location):
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "outside.data").write_bytes(WEIGHT.tobytes())
    model = proto("1,3,8,8")
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location, 0, WEIGHT.nbytes)
    tensor.ClearField("raw_data")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert error_of(folder / "model.onnx").code == "EW-M008"


def test_a_link_out_of_the_folder_is_refused(save, tmp_path):
    path = save(proto("1,3,8,8"), **EXTERNAL)
    outside = tmp_path.parent / f"{tmp_path.name}.data"
    (tmp_path / "model.data").rename(outside)
    (tmp_path / "model.data").symlink_to(outside)
    assert error_of(path).code == "EW-M008"


def test_external_data_that_is_too_short_is_refused(save, tmp_path):
    path = save(proto("1,3,8,8"), **EXTERNAL)
    (tmp_path / "model.data").write_bytes(b"short")
    assert error_of(path).code == "EW-M008"


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a model", bytes(range(256))])
def test_garbage_is_no_model(tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    assert error_of(tmp_path / "bad.onnx").code == "EW-M002"


@settings(max_examples=150, deadline=None)
@given(kept=st.floats(0, 0.999), flipped=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_a_damaged_file_gives_one_clear_error_or_a_model(tmp_path_factory, kept, flipped, bit):
    """Truncated anywhere, or with one bit wrong, `load` never fails with anything but its own errors."""
    whole = proto("1,3,8,8").SerializeToString()
    harmed = bytearray(whole)
    harmed[int(flipped * len(whole))] ^= 1 << bit
    folder = tmp_path_factory.mktemp("damaged")
    for name, content in (("cut.onnx", whole[: int(kept * len(whole))]), ("bit.onnx", bytes(harmed))):
        (folder / name).write_bytes(content)
        with contextlib.suppress(EdgewrightError):
            load(folder / name)

"""What `load` takes, and the one clear error for each thing that it cannot take."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from calibration import Preprocess
from diagnostics import EdgewrightError, UsageError
from exporter.frontends import load
from exporter.graph.passes import check


class Net(nn.Module):
    """A small network with what training leaves behind: BatchNorm statistics and dropout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 5)
        )
        self.body[1].running_mean.normal_()

    def forward(self, x):
        return self.body(x)


@pytest.fixture(scope="module")
def exported():
    return torch.export.export(Net().eval(), (torch.zeros(1, 3, 4, 4),))


@pytest.fixture
def onnx_file(tmp_path):
    weight = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[N,3] x) => (float[N,3] y) { a = MatMul(x, w) y = Relu(a) }'
    )
    model.graph.initializer.append(weight)
    path = tmp_path / "tiny.onnx"
    onnx.save(model, path)
    return path


def code_of(call, *arguments, **options) -> str:
    with pytest.raises(EdgewrightError) as error:
        call(*arguments, **options)
    assert error.value.what
    return error.value.code


def test_a_module_with_example_inputs():
    net = Net().eval()
    x = torch.randn(1, 3, 4, 4)
    source = load(net, inputs=x)
    check(source.model, "load")
    assert (source.kind, source.name) == ("torch", "Net")
    assert [(entry.name, entry.shape, entry.dtype) for entry in source.inputs] == [("x", (1, 3, 4, 4), "float32")]
    np.testing.assert_array_equal(source.example["x"], x.numpy())
    (y,) = source.reference({"x": x.numpy()}).values()
    np.testing.assert_array_equal(y, net(x).detach().numpy())


@pytest.mark.parametrize("inputs", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"x": x}, lambda x: x.numpy()])
def test_example_inputs_in_every_form(inputs):
    assert load(Net(), inputs=inputs(torch.zeros(1, 3, 4, 4))).inputs[0].shape == (1, 3, 4, 4)


def test_shapes_do_where_there_are_no_example_inputs():
    assert load(Net(), shapes={"x": (2, 3, 4, 4)}).inputs[0].shape == (2, 3, 4, 4)


def test_a_pair_and_a_mapping_are_what_a_callable_may_return():
    net, x = Net(), torch.zeros(1, 3, 4, 4)
    pair = load((net, x))
    mapped = load({"model": net, "inputs": x, "preprocess": {"scale": "1", "std": 128.0}})
    assert pair.sha256 == mapped.sha256
    assert mapped.preprocess == Preprocess(scale="1", std=128.0)
    assert code_of(load, {"model": net, "input": x}) == "EW-M003"


def test_several_inputs_and_outputs_by_name():
    class Two(nn.Module):
        def forward(self, a, b=None):
            return {"sum": a + b, "product": a * b}

    a, b = np.float32([[1, 2]]), np.float32([[3, 5]])
    source = load(Two(), inputs={"b": b, "a": a})
    assert {entry.name for entry in source.inputs} == {"a", "b"}
    outputs = source.reference({"a": a, "b": b})
    np.testing.assert_array_equal(np.concatenate(list(outputs.values())), [[4, 7], [3, 10]])


def test_training_flags_are_restored_and_do_not_matter():
    net, x = Net(), torch.randn(1, 3, 4, 4)
    net.body[1].eval()
    before = [part.training for part in net.modules()]
    source = load(net, inputs=x)
    first, second = (source.reference({"x": x.numpy()}) for _ in range(2))
    np.testing.assert_array_equal(next(iter(first.values())), next(iter(second.values())))
    assert [part.training for part in net.modules()] == before
    assert source.sha256 == load(net.eval(), inputs=x).sha256


def test_the_fingerprint_follows_the_weights():
    x = torch.zeros(1, 3, 4, 4)
    net = Net()
    before = load(net, inputs=x).sha256
    assert load(Net(), inputs=x).sha256 == before
    with torch.no_grad():
        net.body[0].weight[0, 0, 0, 0] += 1
    assert load(net, inputs=x).sha256 != before


def test_a_pt2_file_and_the_program_itself(tmp_path, exported):
    torch.export.save(exported, tmp_path / "net.pt2")
    from_file, from_memory = load(tmp_path / "net.pt2"), load(exported)
    assert from_file.name == "net"
    assert from_file.sha256 == from_memory.sha256
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)
    for source in (from_file, from_memory):
        (y,) = source.reference({"x": x}).values()
        np.testing.assert_allclose(y, exported.module()(torch.from_numpy(x)).detach().numpy(), rtol=1e-6)


def test_a_callable_of_the_current_directory(tmp_path, monkeypatch, onnx_file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_for_load.py").write_text(f"def net():\n    return {str(onnx_file)!r}\n\ndef broken():\n    return 1 / 0\n")
    path = list(sys.path)
    assert load("mine_for_load:net").name == "net"
    assert sys.path == path
    with pytest.raises(UsageError, match="mine_for_load:broken") as error:
        load("mine_for_load:broken")
    assert error.value.code == "EW-U003"
    assert "ZeroDivisionError" in error.value.why
    assert code_of(load, "mine_for_load:absent") == code_of(load, "no_such_module_here:net") == "EW-U003"


def test_an_error_of_the_callable_itself_is_not_hidden(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raises_for_load.py").write_text(
        "from diagnostics import DataError\ndef net():\n    raise DataError('EW-D001', 'no network')\n"
    )
    assert code_of(load, "raises_for_load:net") == "EW-D001"


def test_loading_is_silent(capfd):
    load(Net(), inputs=torch.zeros(1, 3, 4, 4))
    assert capfd.readouterr() == ("", "")


def test_a_graph_of_tensorflow_is_recognised(tmp_path):
    (tmp_path / "graph.pb").write_bytes(b"x")
    with pytest.raises(EdgewrightError, match=r"graph\.pb") as error:
        load(tmp_path / "graph.pb")
    assert error.value.code == "EW-M003"
    assert "SavedModel" in error.value.fix


def test_what_is_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert code_of(load, tmp_path / "absent.onnx") == "EW-M001"
    assert code_of(load, tmp_path / "notes.txt") == "EW-M003"
    assert code_of(load, tmp_path) == "EW-M003"
    assert code_of(load, "") == "EW-M001"
    assert code_of(load, 7) == "EW-M003"


def test_a_module_without_inputs():
    assert code_of(load, Net()) == "EW-M011"
    assert code_of(load, Net(), inputs=["text"]) == "EW-M011"


def test_what_torch_cannot_trace_says_why():
    class Branch(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(EdgewrightError, match="Branch") as error:
        load(Branch(), inputs=torch.ones(2))
    assert error.value.code == "EW-M004"
    assert error.value.why
    assert error.value.fix
    assert Path(__file__).name in error.value.where


def test_a_module_that_does_not_take_its_inputs_is_not_called_untraceable():
    with pytest.raises(EdgewrightError, match="does not run on its example inputs") as error:
        load(Net(), inputs=torch.zeros(1, 5, 4, 4))
    assert error.value.code == "EW-M011"
    assert error.value.where == "float32 [1, 5, 4, 4]"


def test_a_nan_in_a_weight_is_named():
    net = Net()
    with torch.no_grad():
        net.body[5].weight[2, 3] = float("nan")
    with pytest.raises(EdgewrightError, match=r"body\.5\.weight") as error:
        load(net, inputs=torch.zeros(1, 3, 4, 4))
    assert error.value.code == "EW-M005"
    assert "Gemm" in error.value.where


class Payload:
    """Unpickling one runs code."""

    def __reduce__(self):
        return (print, ("unpickled",))


def test_pickles_are_read_only_where_allowed(tmp_path, capsys):
    torch.save(Net(), tmp_path / "net.pt")
    torch.save(Payload(), tmp_path / "evil.pth")
    torch.save(Net().state_dict(), tmp_path / "weights.pth")
    assert code_of(load, tmp_path / "net.pt") == code_of(load, tmp_path / "evil.pth") == "EW-M010"
    assert capsys.readouterr().out == ""
    assert load(tmp_path / "net.pt", inputs=torch.zeros(1, 3, 4, 4), allow_pickle=True).kind == "torch"
    assert code_of(load, tmp_path / "weights.pth", allow_pickle=True) == "EW-M003"


@pytest.mark.parametrize("part", ["data/sample_inputs/model.pt", "data/constants/opaque_obj_0", "data/aotinductor/model/x.so"])
def test_a_pt2_that_hides_a_pickle_or_compiled_code_is_refused(tmp_path, exported, capsys, part):
    import io
    import zipfile

    torch.export.save(exported, tmp_path / "net.pt2")
    evil = io.BytesIO()
    torch.save(Payload(), evil)
    with zipfile.ZipFile(tmp_path / "net.pt2") as good, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as bad:
        root = good.namelist()[0].split("/")[0]
        for name in good.namelist():
            if not name.endswith(part):
                bad.writestr(name, good.read(name))
        bad.writestr(f"{root}/{part}", evil.getvalue())
    assert code_of(load, tmp_path / "evil.pt2") == "EW-M010"
    assert capsys.readouterr().out == ""


def test_a_damaged_pt2(tmp_path, exported):
    torch.export.save(exported, tmp_path / "net.pt2")
    whole = (tmp_path / "net.pt2").read_bytes()
    (tmp_path / "half.pt2").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt2").write_text("no archive")
    assert code_of(load, tmp_path / "half.pt2") == code_of(load, tmp_path / "text.pt2") == "EW-M002"

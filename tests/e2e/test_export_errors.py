"""What a user does wrong, through the command line: one message with a stable code, the documented exit status, nothing half-written."""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from exporter.cli.main import main

X86 = ("--target", "x86-64-cpu")


def write_model(path: Path, weight: np.ndarray | None = None, channels: int | str = 3) -> Path:
    """A small ONNX classifier [1, 3, 8, 8] -> [1, 4]."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32) if weight is None else weight
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def write_data(path: Path, shape: tuple[int, ...] = (10, 3, 8, 8), bad: float | None = None) -> Path:
    data = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    if bad is not None:
        data[3, 0, 0, 0] = bad
    np.save(path, data)
    return path


Case = Callable[[Path], list[str]]

CASES: dict[str, tuple[str, int, Case]] = {
    "missing model": ("EW-M001", 3, lambda t: [str(t / "none.onnx"), *X86, "--calib", str(write_data(t / "d.npy"))]),
    "corrupt model": (
        "EW-M002",
        3,
        lambda t: [str(_garbage(t / "m.onnx")), *X86, "--calib", str(write_data(t / "d.npy"))],
    ),
    "unknown format": ("EW-M003", 3, lambda t: [str(_garbage(t / "m.caffe")), *X86, "--calib", str(write_data(t / "d.npy"))]),
    "NaN in a weight": (
        "EW-M005",
        3,
        lambda t: [
            str(write_model(t / "m.onnx", np.full((4, 3, 3, 3), np.nan, np.float32))),
            *X86,
            "--calib",
            str(write_data(t / "d.npy")),
        ],
    ),
    "dynamic dimension": (
        "EW-M006",
        3,
        lambda t: [str(write_model(t / "m.onnx", channels="C")), *X86, "--calib", str(write_data(t / "d.npy"))],
    ),
    "no such callable": ("EW-U003", 2, lambda t: ["nowhere_at_all:model", *X86, "--calib", str(write_data(t / "d.npy"))]),
    "missing data": ("EW-D001", 3, lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", str(t / "none")]),
    "no sample": (
        "EW-D001",
        3,
        lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", str(write_data(t / "d.npy", (0, 3, 8, 8)))],
    ),
    "NaN in the data": (
        "EW-D002",
        3,
        lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", str(write_data(t / "d.npy", bad=np.nan))],
    ),
    "wrong shape": (
        "EW-D003",
        3,
        lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", str(write_data(t / "d.npy", (10, 3, 9, 8)))],
    ),
    "unreadable data": ("EW-D004", 3, lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", str(_garbage(t / "d.npy"))]),
    "data with an empty name": ("EW-D001", 3, lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", ""]),
    "a folder without samples": (
        "EW-D001",
        3,
        lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", str(_text(t / "notes" / "a.txt", "x").parent)],
    ),
    "model with an empty name": ("EW-M001", 3, lambda t: ["", *X86, "--calib", str(write_data(t / "d.npy"))]),
    "a Keras file that is none": (
        "EW-M002",
        3,
        lambda t: [str(_garbage(t / "m.h5")), *X86, "--calib", str(write_data(t / "d.npy"))],
    ),
    "a target twice": (
        "EW-U002",
        2,
        lambda t: [str(write_model(t / "m.onnx")), *X86, *X86, "--calib", str(write_data(t / "d.npy"))],
    ),
    "channels-last ONNX": (
        "EW-U002",
        2,
        lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", str(write_data(t / "d.npy")), "--io-layout", "channels_last"],
    ),
    "a profile that is absent": (
        "EW-T001",
        4,
        lambda t: [str(write_model(t / "m.onnx")), "--target", str(t / "board.toml"), "--calib", str(write_data(t / "d.npy"))],
    ),
    "a gate out of reach": (
        "EW-G002",
        2,
        lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", str(write_data(t / "d.npy")), "--gate", "top1_agreement>=98"],
    ),
    "no calibration data": (
        "EW-Q001",
        3,
        lambda t: [str(write_model(t / "m.onnx")), *X86, "--test", str(write_data(t / "d.npy"))],
    ),
    "unknown target": (
        "EW-T001",
        4,
        lambda t: [str(write_model(t / "m.onnx")), "--target", "x86-64-gpu", "--calib", str(write_data(t / "d.npy"))],
    ),
    "invalid target": (
        "EW-T002",
        4,
        lambda t: [str(write_model(t / "m.onnx")), "--target", str(_text(t / "t.toml", "nmae = 'x'\n")), "--calib", "d.npy"],
    ),
    "invalid gate": (
        "EW-G002",
        2,
        lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", str(write_data(t / "d.npy")), "--gate", "accuracy>0.9"],
    ),
    "invalid goal": (
        "EW-P002",
        2,
        lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", str(write_data(t / "d.npy")), "--prune", "macs=80%"],
    ),
    "invalid preprocessing": (
        "EW-D005",
        3,
        lambda t: [
            str(write_model(t / "m.onnx")),
            *X86,
            "--calib",
            str(write_data(t / "d.npy")),
            "--preprocess",
            str(_text(t / "p.toml", "resise = 8\n")),
        ],
    ),
    "invalid plan": (
        "EW-Q002",
        3,
        lambda t: [
            str(write_model(t / "m.onnx")),
            *X86,
            "--test",
            str(write_data(t / "d.npy")),
            "--plan",
            str(_text(t / "plan.json", "{}")),
        ],
    ),
    "unknown option value": (
        "EW-U001",
        2,
        lambda t: [str(write_model(t / "m.onnx")), *X86, "--calib", str(write_data(t / "d.npy")), "--method", "best"],
    ),
}


def _garbage(path: Path) -> Path:
    path.write_bytes(b"this is not what it says" * 10)
    return path


def _text(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", CASES)
def test_one_message_with_its_code_and_nothing_left_behind(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, status, arguments = CASES[name]
    out = tmp_path / "out"
    command = ["export", *arguments(tmp_path), "--out", str(out)]
    assert main(command) == status
    message = capsys.readouterr().err
    assert code in message
    assert "Traceback" not in message
    assert not out.exists() or not list(out.iterdir())


def test_json_errors_go_to_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "none.onnx"), str(tmp_path / "m.tflite"), "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "EW-M001"
    assert error["exit_status"] == 3


def test_an_existing_bundle_is_kept_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(write_model(tmp_path / "m.onnx")), *X86, "--calib", str(write_data(tmp_path / "d.npy"))]
    command += ["--out", str(tmp_path / "out")]
    assert main(command) == 0
    before = (tmp_path / "out" / "x86-64-cpu" / "manifest.json").read_bytes()
    assert main(command) == 2
    assert "EW-U004" in capsys.readouterr().err
    assert (tmp_path / "out" / "x86-64-cpu" / "manifest.json").read_bytes() == before
    assert main([*command, "--force"]) == 0


def test_a_target_without_the_memory_refuses_by_number_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.toml"
    small.write_text('extends = "cortex-m7"\nname = "tiny"\n[memory]\nflash = 1024\nsram = 524288\n')
    command = ["export", str(write_model(tmp_path / "m.onnx")), "--target", str(small), *X86]
    command += ["--calib", str(write_data(tmp_path / "d.npy")), "--out", str(tmp_path / "out")]
    assert main(command) == 4
    message = capsys.readouterr().err
    assert "EW-T003" in message
    assert "1,024 bytes" in message
    assert (tmp_path / "out" / "x86-64-cpu" / "manifest.json").exists()
    assert not (tmp_path / "out" / "tiny").exists()


def test_sram_is_enforced_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.toml"
    small.write_text('extends = "cortex-m7"\nname = "tiny"\n[memory]\nflash = 2097152\nsram = 512\n')
    command = ["export", str(write_model(tmp_path / "m.onnx")), "--target", str(small)]
    assert main([*command, "--calib", str(write_data(tmp_path / "d.npy")), "--out", str(tmp_path / "out")]) == 4
    assert "SRAM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_an_operator_that_the_device_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = tmp_path / "no_relu.toml"
    profile.write_text(
        'extends = "x86-64-cpu"\nname = "no-relu"\n[artifact]\nprecisions = []\n[[units]]\nname = "npu"\nkind = "npu"\n'
        'operators = ["Conv", "ReduceMean", "GlobalAveragePool", "Flatten", "Reshape"]\ndtypes = ["int8", "uint8", "float32"]\n'
    )
    graph = onnx.load(write_model(tmp_path / "m.onnx"))
    graph.graph.node[1].op_type = "Sigmoid"
    onnx.save(graph, tmp_path / "m.onnx")
    command = ["export", str(tmp_path / "m.onnx"), "--target", str(profile), "--calib", str(write_data(tmp_path / "d.npy"))]
    assert main([*command, "--out", str(tmp_path / "out")]) == 4
    message = capsys.readouterr().err
    assert "EW-T004" in message
    assert "Sigmoid" in message


def test_convert_refuses_another_suffix_and_leaves_nothing(tmp_path: Path) -> None:
    assert main(["convert", str(write_model(tmp_path / "m.onnx")), str(tmp_path / "m.bin")]) == 2
    assert not (tmp_path / "m.bin").exists()


def test_convert_keeps_the_original_and_says_which_option_is_of_no_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "m.onnx")
    before = model.read_bytes()
    for out, options, code, words in [
        ("m.onnx", ["--force"], "EW-U004", "is the model itself"),
        ("n.onnx", ["--io-layout", "channels_last"], "EW-U002", "--io-layout"),
        ("n.tflite", ["--precision", "int9"], "EW-U001", "no precision 'int9'"),
        ("n.bin", [], "EW-U001", "n.bin names no format"),
    ]:
        assert main(["convert", str(model), str(tmp_path / out), *options]) == 2
        message = capsys.readouterr().err
        assert code in message
        assert words in message
    assert model.read_bytes() == before
    assert list(tmp_path.iterdir()) == [model]


def test_how_photos_are_read_is_told_where_nothing_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    command = ["export", str(write_model(tmp_path / "m.onnx")), *X86, "--calib", str(tmp_path / "photos"), "--effort", "fast"]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    assert "assumed: RGB of 0..1 (pixel / 255), no mean and std, shorter side 8, centre (8, 8)" in capsys.readouterr().err
    recipe = _text(tmp_path / "p.toml", "resize = [8, 8]\nmean = 0.5\nstd = 0.5\n")
    assert main([*command, "--preprocess", str(recipe), "--out", str(tmp_path / "b")]) == 0
    assert "assumed" not in capsys.readouterr().err


def test_a_full_disk_is_an_error_that_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("exporter.converting.tempfile.TemporaryDirectory", full)
    assert main(["convert", str(write_model(tmp_path / "m.onnx")), str(tmp_path / "m.tflite")]) == 2
    message = capsys.readouterr().err
    assert "EW-U004: something could not be written" in message
    assert tempfile.gettempdir() in message
    assert not (tmp_path / "m.tflite").exists()

"""`edgewright targets new`: a profile of what a runtime does here, which passes its own check and exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from diagnostics import RuntimeFailure, UsageError
from exporter import new_target as module
from exporter.cli.targets import command
from exporter.new_target import new_target
from targets import check_file, load_target


def new(*arguments: str):
    return CliRunner(catch_exceptions=False).invoke(command, ["new", *arguments])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, float | str]:
    """Seconds of each precision, or why it is refused, instead of exports."""
    answers: dict[str, float | str] = {}

    def seconds(source, target, samples) -> float:
        answer = answers.get(target.artifact.precision, 0.001)
        if isinstance(answer, str):
            raise RuntimeFailure("EW-R002", answer)
        return answer

    monkeypatch.setattr(module, "_seconds", seconds)
    return answers


def test_the_profile_of_this_machine_is_valid_and_has_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    assert new("board", "--runtime", "onnxruntime", "--out", str(path)).exit_code == 0
    assert check_file(path) == []
    data = json.loads(new("board", "--runtime", "onnxruntime", "--json").stdout)
    assert data["path"] is None
    assert data["profile"]["name"] == "board"
    with pytest.raises(UsageError) as caught:
        new("board", "--runtime", "onnxruntime", "--out", str(path / "below.toml"))
    assert caught.value.code == "EW-U004"
    target = load_target(path)
    assert (target.name, target.artifact.runtime, target.artifact.precision) == ("board", "onnxruntime", "int8")
    assert {"float32", "float16", "weight_int8"} < set(target.artifact.precisions)
    assert target.artifact.floor.startswith("onnxruntime>=")
    assert target.cost.gmacs_int8
    assert target.cost.gmacs_float
    assert target.cost.bandwidth
    assert CliRunner().invoke(command, ["check", str(path)]).exit_code == 0


def test_what_the_runtime_refuses_is_left_out_and_said(quick: dict[str, float | str]) -> None:
    quick.update({"int8": "no integer kernels", "int16x8": "nor these", "int8x4": "nor those", "float32": 0.002})
    shown = new("board", "--runtime", "onnxruntime")
    assert "# int8 is not taken: no integer kernels" in shown.output
    found = new_target("board", "onnxruntime").target
    assert found.artifact.precision == "float32"
    assert set(found.units[0].dtypes) == {"float32", "float16"}
    assert found.cost.gmacs_int8 is None
    assert found.cost.gmacs_float == pytest.approx(3.61, rel=0.01)  # 32 x 32 x 9 products on 28 x 28 pixels in 2 ms


def test_integers_without_floats_have_nothing_to_fall_back_to(quick: dict[str, float | str]) -> None:
    quick.update(dict.fromkeys(("float32", "float16", "dynamic_int8", "dynamic_int4", "weight_int8", "weight_int4"), "no floats"))
    target = new_target("board", "tflite-micro").target
    assert target.artifact.io_dtype == "int8"
    assert not target.quantization.float_fallback
    assert set(target.units[0].dtypes) == {"int8", "uint8", "int16"}


def test_a_runtime_that_runs_nothing_is_an_error(quick: dict[str, float | str]) -> None:
    quick.update(dict.fromkeys(module._asked("onnx"), "broken"))
    with pytest.raises(RuntimeFailure, match="runs nothing") as caught:
        new_target("board", "onnxruntime")
    assert caught.value.code == "EW-R002"


@pytest.mark.parametrize(("features", "weights"), [({"avx512_vnni"}, "full"), ({"avx2"}, "reduced"), (set(), "reduced")])
def test_weights_are_reduced_where_products_would_saturate(features, weights, quick, monkeypatch) -> None:
    monkeypatch.setattr(module, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    quantization = new_target("board", "onnxruntime").target.quantization
    assert (quantization.activations, quantization.weights_range) == ("uint8", weights)
    monkeypatch.setattr(module.platform, "machine", lambda: "aarch64")
    assert new_target("board", "onnxruntime").target.quantization.activations == "int8"


@pytest.mark.parametrize(
    ("name", "runtime", "words"),
    [
        ("My Board", "onnxruntime", "cannot be named"),
        ("cortex-m7", "onnxruntime", "cannot be named"),
        ("board", "no-runtime", "no profile ships"),
    ],
)
def test_names_and_runtimes_that_cannot_be(name: str, runtime: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        new_target(name, runtime)
    assert caught.value.code == "EW-U001"


def test_a_file_that_exists_is_kept_unless_forced(tmp_path: Path, quick: dict[str, float | str]) -> None:
    path = tmp_path / "board.toml"
    path.write_text("mine")
    with pytest.raises(UsageError) as caught:
        new("board", "--runtime", "onnxruntime", "--out", str(path))
    assert (caught.value.code, path.read_text()) == ("EW-U004", "mine")
    assert new("board", "--runtime", "onnxruntime", "--out", str(path), "--force").exit_code == 0
    assert check_file(path) == []

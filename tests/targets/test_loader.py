"""Profiles: ours are valid and say what they must; wrong ones are refused with file, line, key and allowed values."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from diagnostics import TargetError
from targets import check_file, list_targets, load_target, target_names, to_toml

HOME = Path(load_target.__code__.co_filename).parent

VALID = """\
name = "board"
title = "A board"

[artifact]
format = "tflite"
runtime = "tflite-micro"
precision = "int8"

[quantization]
float_fallback = false

[[units]]
name = "cpu"
kind = "cpu"
dtypes = ["int8"]

[memory]
flash = 1024

[verification]
runtimes = ["tflite-micro"]
level = "run"
"""


def write(folder: Path, text: str, name: str = "board.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refused(name_or_path: str | Path) -> TargetError:
    with pytest.raises(TargetError) as caught:
        load_target(name_or_path)
    return caught.value


# --- our own profiles -------------------------------------------------------------------------------------------------


def test_every_profile_is_valid_and_named_as_its_file() -> None:
    assert {"x86-64-cpu", "x86-64-avx2-cpu", "android-arm64-cpu", "android-gpu", "cortex-m7"} <= set(target_names())
    assert tuple(target.name for target in list_targets()) == target_names()


@pytest.mark.parametrize("name", target_names())
def test_every_profile_names_the_sources_of_its_figures_and_how_it_is_verified(name: str) -> None:
    target = load_target(name)
    assert target.description
    assert len(target.sources) >= 2
    assert target.verification.runtimes
    assert target.verification.note
    if all(unit.kind == "cpu" for unit in target.units):  # makers of NPUs do not publish every figure
        assert target.cost.bandwidth
        assert target.cost.gmacs_float
        assert target.cost.gmacs_int8 or target.artifact.precision != "int8"


@pytest.mark.parametrize("name", target_names())
def test_the_operators_of_a_unit_are_listed_once_and_in_order(name: str) -> None:
    for unit in load_target(name).units:
        assert list(unit.operators) == sorted(set(unit.operators))


def test_cortex_m7_is_integer_only_with_the_memory_of_its_datasheet() -> None:
    target = load_target("cortex-m7")
    assert (target.memory.flash, target.memory.sram) == (2 * 1024**2, 512 * 1024)
    assert (target.artifact.io_dtype, target.quantization.float_fallback) == ("int8", False)
    assert {dtype for unit in target.units for dtype in unit.dtypes} == {"int8", "int16"}


def test_the_avx2_profile_differs_from_its_parent_in_what_it_says_alone() -> None:
    parent, child = load_target("x86-64-cpu"), load_target("x86-64-avx2-cpu")
    assert child.artifact == parent.artifact
    assert child.units == parent.units
    assert child.quantization.weights_range == "reduced"
    assert child.quantization.model_copy(update={"weights_range": "full"}) == parent.quantization


@pytest.mark.parametrize("name", target_names())
def test_a_rendered_profile_loads_as_an_equal_one(name: str, tmp_path: Path) -> None:
    text = to_toml(load_target(name))
    assert "extends" not in tomllib.loads(text)
    assert load_target(write(tmp_path, text)) == load_target(name)


def test_strings_with_quotes_lines_and_controls_survive_rendering(tmp_path: Path) -> None:
    target = load_target(write(tmp_path, VALID)).model_copy(update={"title": 'a "b"\\\n\x7f\tü'})
    assert load_target(write(tmp_path, to_toml(target))) == target


# --- unknown ----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_names_and_the_close_ones() -> None:
    error = refused("cortex-m8")
    assert (error.code, error.exit_status) == ("EW-T001", 4)
    assert "did you mean cortex-m7" in error.fix
    for name in target_names():
        assert name in error.why


@pytest.mark.parametrize("name", ["absent/board.toml", Path("absent.toml"), "zzzzzz", ""])
def test_a_file_or_name_that_does_not_exist(name: str | Path) -> None:
    assert refused(name).code == "EW-T001"
    if isinstance(name, Path):
        with pytest.raises(TargetError):
            check_file(name)


# --- invalid ----------------------------------------------------------------------------------------------------------


def test_a_valid_file_has_no_problem(tmp_path: Path) -> None:
    path = write(tmp_path, VALID)
    assert check_file(path) == []
    assert load_target(str(path)).memory.flash == 1024


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ('format = "tflite"', 'format = "tflit"', 5, "artifact.format", ["'tflite' or 'onnx'", "'tflit'"]),
        ('kind = "cpu"', 'kind = "tpu"', 14, "units.0.kind", ["'cpu', 'gpu' or 'npu'", "'tpu'"]),
        ('dtypes = ["int8"]', 'dtypes = ["int7"]', 15, "units.0.dtypes.0", ["'int8'", "'int7'"]),
        ("flash = 1024", "flash = -1", 18, "memory.flash", ["greater than 0", "bytes", "-1"]),
        ("flash = 1024", 'flash = "1024"', 18, "memory.flash", ["integer", "bytes", "'1024'"]),
        ("flash = 1024", "flahs = 1024", 18, "memory.flahs", ["no such key", "did you mean flash?", "sram"]),
        ("[memory]", "[memmory]", 17, "memmory", ["did you mean memory?", "extends"]),
        ('level = "run"', "", 20, "verification.level", ["is missing"]),
        ('name = "board"', "", None, "name", ["is missing"]),
        ('name = "board"', 'name = "My Board"', 1, "name", ["pattern", "'My Board'"]),
        ('runtime = "tflite-micro"', 'runtime = "onnxruntime"', 5, "artifact.format", ["runs onnx artifacts"]),
        ('precision = "int8"', 'precision = "float32"', 7, "artifact.precision", ["no unit has the dtype float32"]),
        ("float_fallback = false", "", 9, "quantization.float_fallback", ["no unit has the dtype float32"]),
        ('precision = "int8"', 'precision = "int8"\nfloor = "2.14"', 8, "artifact.floor", ["tflite>=2.14", "'2.14'"]),
        ('runtimes = ["tflite-micro"]', "runtimes = []", 21, "verification.runtimes", ["at least one"]),
        ("[memory]", "[cost]\ngmacs_int8 = inf\n[memory]", 18, "cost.gmacs_int8", ["finite", "multiply-accumulates"]),
    ],
)
def test_a_wrong_key_is_named_with_its_line_and_what_it_may_be(
    tmp_path: Path, old: str, new: str, line: int | None, key: str, words: list[str]
) -> None:
    assert old in VALID
    path = write(tmp_path, VALID.replace(old, new, 1))
    (problem,) = check_file(path)
    assert (problem.line, problem.key) == (line, key)
    for word in words:
        assert word in problem.message
    error = refused(path)
    assert (error.code, error.exit_status) == ("EW-T002", 4)
    assert str(problem) in error.where
    assert f"board.toml:{line}:" in error.where or line is None


LIMIT = '[[units.limits]]\nmeasure = "kernel"\nmost = 3\nwhy = "so it is"\n\n[memory]'


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ('measure = "kernel"', 'measure = "kernels"', 18, "units.0.limits.0.measure", ["'kernel'", "'stride'", "'kernels'"]),
        ("most = 3", "mots = 3", 19, "units.0.limits.0.mots", ["did you mean most?", "multiple_of"]),
        ("most = 3", "", 17, "units.0.limits.0", ["limits nothing", "multiple_of"]),
        ("most = 3", "most = 3\nleast = 4", 17, "units.0.limits.0", ["least is 4 and most is 3"]),
        ('why = "so it is"', "", 17, "units.0.limits.0.why", ["is missing"]),
    ],
)
def test_a_wrong_limit_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, key: str, words: list[str]) -> None:
    text = VALID.replace("[memory]", LIMIT, 1)
    assert check_file(write(tmp_path, text)) == []
    (problem,) = check_file(write(tmp_path, text.replace(old, new, 1)))
    assert (problem.line, problem.key) == (line, key)
    for word in words:
        assert word in problem.message


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, VALID.replace('kind = "cpu"', 'kind = "tpu"').replace("flash = 1024", "flash = 0"))
    assert [problem.key for problem in check_file(path)] == ["units.0.kind", "memory.flash"]


def test_two_units_of_one_name(tmp_path: Path) -> None:
    unit = '[[units]]\nname = "cpu"\nkind = "cpu"\ndtypes = ["int8"]\n\n[memory]'
    (problem,) = check_file(write(tmp_path, VALID.replace("[memory]", unit)))
    assert problem.key == "units"


def test_a_profile_that_names_no_unit_at_all(tmp_path: Path) -> None:
    (problem,) = check_file(write(tmp_path, VALID.replace('[[units]]\nname = "cpu"\nkind = "cpu"\ndtypes = ["int8"]\n', "")))
    assert problem.key == "units"
    assert "is missing" in problem.message


def test_a_target_without_units(tmp_path: Path) -> None:
    path = write(tmp_path, 'extends = "cortex-m7"\nname = "none"\nunits = []\n')
    (problem,) = check_file(path)
    assert (problem.key, problem.line) == ("units", 3)


def test_integer_inputs_of_a_float_artifact(tmp_path: Path) -> None:
    text = VALID.replace('precision = "int8"', 'precision = "float32"\nio_dtype = "int8"').replace('["int8"]', '["float32"]')
    (problem,) = check_file(write(tmp_path, text))
    assert (problem.key, problem.line) == ("artifact.io_dtype", 8)


def test_text_that_is_not_toml_names_its_line(tmp_path: Path) -> None:
    (problem,) = check_file(write(tmp_path, VALID.replace("flash = 1024", "flash = = 1024")))
    assert problem.line == 18
    assert refused(write(tmp_path, "x = 1\nx = 2\n")).code == "EW-T002"


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(b"\xff\xfe")
    assert refused(path).code == "EW-T002"


# --- extends ----------------------------------------------------------------------------------------------------------


def test_a_users_profile_extends_one_of_ours_or_a_file_beside_it(tmp_path: Path) -> None:
    small = write(tmp_path, 'extends = "cortex-m7"\nname = "small"\n[memory]\nsram = 65536\n', "small.toml")
    tiny = write(tmp_path, 'extends = "small.toml"\nname = "tiny"\n[memory]\nflash = 131072\n', "tiny.toml")
    assert (load_target(small).memory.flash, load_target(small).memory.sram) == (2 * 1024**2, 65536)
    assert (load_target(tiny).memory.flash, load_target(tiny).memory.sram) == (131072, 65536)
    assert load_target(tiny).units == load_target("cortex-m7").units


def test_an_array_replaces_the_array_it_inherits(tmp_path: Path) -> None:
    units = '[[units]]\nname = "npu"\nkind = "npu"\ndtypes = ["int8"]\n'
    path = write(tmp_path, f'extends = "cortex-m7"\nname = "one"\n[artifact]\nprecisions = ["auto"]\n{units}')
    assert [unit.name for unit in load_target(path).units] == ["npu"]


def test_an_error_in_what_is_inherited_names_the_file_it_is_written_in(tmp_path: Path) -> None:
    write(tmp_path, VALID.replace('kind = "cpu"', 'kind = "tpu"'), "base.toml")
    heir = write(tmp_path, 'extends = "base.toml"\nname = "heir"\n', "heir.toml")
    (problem,) = check_file(heir)
    assert (Path(problem.file).name, problem.line) == ("base.toml", 14)


def test_profiles_that_extend_each_other_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, 'extends = "b.toml"\n', "a.toml")
    write(tmp_path, 'extends = "a.toml"\n', "b.toml")
    write(tmp_path, 'name = "c"\nextends = "c.toml"\n', "c.toml")
    (problem,) = check_file(tmp_path / "a.toml")
    assert problem.key == "extends"
    assert "a -> b -> a" in problem.message
    (problem,) = check_file(tmp_path / "c.toml")
    assert (problem.line, "c -> c" in problem.message) == (2, True)


@pytest.mark.parametrize("parent", ['"absent"', "3", '"absent.toml"'])
def test_an_unknown_parent(tmp_path: Path, parent: str) -> None:
    (problem,) = check_file(write(tmp_path, f'name = "x"\nextends = {parent}\n'))
    assert (problem.line, problem.key) == (2, "extends")
    assert "cortex-m7" in problem.message

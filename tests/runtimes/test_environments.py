"""Environments of their own: found by name and version, refused by name, made aside, removed whole. No network is used here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from diagnostics import RuntimeFailure, UsageError
from exporter.cli.main import main
from exporter.runtimes import available, install, list_environments, open_session
from exporter.runtimes.environments import (
    RECIPES,
    RECORD,
    environments_root,
    find_environment,
    parse_pin,
    python_in,
    release_key,
    remove_environment,
)
from exporter.runtimes.install import add_environment
from exporter.runtimes.probe import probe_model
from exporter.runtimes.registry import RUNTIMES, runtime_of
from exporter.runtimes.seal import SEAL, write_seal


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stand_in(pin: str, script: str = f'exec "{sys.executable}" "$@"\n', platform: str = "") -> Path:
    """An environment whose interpreter is this one, through a script."""
    parsed = parse_pin(pin, platform)
    python = python_in(parsed.folder, platform)
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}")
    python.chmod(0o755)
    record = {
        "package": parsed.package,
        "version": parsed.version,
        "platform": platform,
        "python": "3.11.0",
        "wheels": {"a.whl": "00"},
    }
    (parsed.folder / RECORD).write_text(json.dumps(record))
    return parsed.folder


def probe(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "probe.onnx"
    path.write_bytes(probe_model("onnxruntime")[1])
    return path


@pytest.mark.parametrize(
    "text", ["torch==2.0.0", "onnxruntime", "onnxruntime==", "onnxruntime>=1.17", "onnxruntime==../x", "==1.0", ""]
)
def test_only_known_packages_at_exact_versions_are_pins(text: str) -> None:
    with pytest.raises(UsageError, match="is not a runtime and its version") as caught:
        parse_pin(text)
    assert caught.value.code == "EW-U001"
    assert all(package in caught.value.why for package in RECIPES)


def test_spelling_of_the_package_does_not_matter() -> None:
    assert parse_pin("TFLite_Runtime == 2.14.0") == parse_pin("tflite-runtime==2.14.0")


@pytest.mark.parametrize(
    ("pin", "numpy"),
    [
        ("tflite-runtime==2.14.0", "numpy==1.26.4"),
        ("onnxruntime==1.18.1", "numpy==1.26.4"),
        ("onnxruntime==1.19.0", "numpy>=2"),
        ("ai-edge-litert==1.0.1", "numpy==1.26.4"),
        ("ai-edge-litert==1.2.0", "numpy>=2"),
    ],
)
def test_old_wheels_get_the_numpy_they_were_built_for(pin: str, numpy: str) -> None:
    parsed = parse_pin(pin)
    assert RECIPES[parsed.package].numpy_for(parsed.version) == numpy


def test_releases_sort_by_number() -> None:
    assert sorted(["1.9", "1.10.0", "1.10.0rc1", "2"], key=release_key) == ["1.9", "1.10.0", "1.10.0rc1", "2"]


def downloads(pin: str) -> list[list[str]]:
    """What pip is asked for, call by call, without its options for where and how."""
    calls: list[list[str]] = []

    def run(command: Sequence[str | Path], what: str) -> str:
        calls.append([str(part) for part in command[command.index("--dest") + 2 :]])
        return ""

    install._download(parse_pin(pin), Path("packages"), None, ["pip", "download"], run)
    return calls


def test_a_package_is_downloaded_with_its_requirements_or_alone_with_the_recipes() -> None:
    assert downloads("tflite-runtime==2.14.0") == [["tflite-runtime==2.14.0", "numpy==1.26.4"]]
    first, second = downloads("rknn-toolkit2==2.5.0")
    assert first == ["--no-deps", "rknn-toolkit2==2.5.0"]
    assert {"torch==2.13.0", "numpy==1.26.4", "onnx==1.18.0"} <= set(second)
    assert not any(requirement.startswith("rknn") for requirement in second)
    [together] = downloads("esp-ppq==1.3.12")
    assert {"esp-ppq==1.3.12", "torch==2.13.0"} <= set(together)


def test_wheels_for_arm_are_those_of_its_python_and_of_a_glibc_it_has() -> None:
    tags = install._tags("3.11.2")
    values = {tags[i + 1] for i, tag in enumerate(tags) if tag.startswith("--p") or tag == "--abi"}
    assert {"3.11", "cp311", "abi3", "none", "manylinux_2_28_aarch64", "manylinux2014_aarch64"} <= values
    assert not any("x86" in value or "2_38" in value for value in values)
    assert "--only-binary=:all:" in tags  # a source package would be built for this machine


def test_every_recipe_can_be_proved_by_a_runtime() -> None:
    assert set(RECIPES) <= {runtime.package for runtime in RUNTIMES}


def test_an_environment_of_another_platform_is_beside_the_own_one() -> None:
    stand_in("onnxruntime==1.17.3")
    folder = stand_in("onnxruntime==1.17.3", platform="aarch64")
    assert folder.name == "onnxruntime-1.17.3-aarch64"
    assert [str(entry.pin) for entry in list_environments()] == ["onnxruntime==1.17.3", "onnxruntime==1.17.3 --platform aarch64"]
    own = find_environment("onnxruntime", "1.17.3")
    assert own is not None
    assert own.pin.platform == ""
    remove_environment(parse_pin("onnxruntime==1.17.3", "aarch64"))
    assert [entry.pin.platform for entry in list_environments()] == [""]


def test_another_platform_than_arms_is_refused() -> None:
    with pytest.raises(UsageError, match="no environments of platform"):
        parse_pin("onnxruntime==1.17.3", "riscv64")


def sealed(pin: str) -> Path:
    """A stand-in whose files are sealed as `add_environment` does."""
    folder = stand_in(pin)
    (folder / "package.py").write_text("original = True\n")
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**record, "seal": write_seal(folder)}))
    return folder


def test_a_sealed_environment_runs(tmp_path: Path) -> None:
    folder = sealed("onnxruntime==1.17.3")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "package.pyc").write_bytes(b"what an interpreter wrote")
    with open_session("onnxruntime==1.17.3", probe(tmp_path)) as session:
        np.testing.assert_array_equal(session.run({"x": np.array([-1, 2], np.float32)})["y"], [0, 2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "package.py").write_text("original = False\n"), "package.py"),
        (lambda folder: (folder / "package.py").unlink(), "package.py"),
        (lambda folder: (folder / "sitecustomize.py").write_text("import os\n"), "sitecustomize.py"),
        (lambda folder: (folder / SEAL).write_text("{}"), "list of its files"),
        (lambda folder: (folder / SEAL).unlink(), "list of its files"),
    ],
)
def test_an_environment_that_is_not_what_was_installed_is_refused(
    damage: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    damage(sealed("onnxruntime==1.17.3"))
    with pytest.raises(RuntimeFailure, match="is damaged") as caught:
        open_session("onnxruntime==1.17.3", probe(tmp_path))
    assert caught.value.code == "EW-R001"
    assert said in caught.value.why


def test_environments_are_listed_in_order_and_the_newest_answers_to_the_bare_name() -> None:
    for pin in ("tflite-runtime==2.9.0", "tflite-runtime==2.14.0", "onnxruntime==1.17.3"):
        stand_in(pin)
    assert [str(entry.pin) for entry in list_environments()] == [
        "onnxruntime==1.17.3",
        "tflite-runtime==2.9.0",
        "tflite-runtime==2.14.0",
    ]
    assert available("tflite-runtime").version == "2.14.0"
    assert available("tflite-runtime==2.9.0").present
    assert not available("tflite-runtime==2.10.0").present
    assert "edgewright runtimes add tflite-runtime==2.10.0" in available("tflite-runtime==2.10.0").how_to_get


def test_what_is_installed_here_comes_before_environments() -> None:
    import onnxruntime

    stand_in("onnxruntime==1.17.3")
    assert available("onnxruntime").version == onnxruntime.__version__
    assert available(f"onnxruntime=={onnxruntime.__version__}").present
    assert available("onnxruntime==1.17.3").version == "1.17.3"


def test_a_version_of_litert_is_named_by_its_kernels() -> None:
    stand_in("ai-edge-litert==1.2.0")
    runtime = runtime_of("litert-ref==1.2.0")
    assert runtime.options == {"kernels": "ref"}
    assert available("litert-ref==1.2.0").present


def test_a_runtime_without_releases_of_its_own_cannot_be_named_with_a_version() -> None:
    with pytest.raises(UsageError, match="tflite-micro==1"):
        runtime_of("tflite-micro==1")


@pytest.mark.parametrize("isolate", [True, False])
def test_a_session_runs_under_the_environments_interpreter(tmp_path: Path, isolate: bool) -> None:
    folder = stand_in("onnxruntime==1.17.3", f'echo "$1" > "$(dirname "$0")/called"\nexec "{sys.executable}" "$@"\n')
    with open_session("onnxruntime==1.17.3", probe(tmp_path), isolate=isolate) as session:
        assert session.runtime == "onnxruntime==1.17.3"
        np.testing.assert_array_equal(session.run({"x": np.array([-1, 2], np.float32)})["y"], [0, 2])
    assert (folder / "bin" / "called").read_text().strip().endswith("worker.py")


def test_a_session_of_an_absent_release_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"onnxruntime==1\.17\.3 is not installed") as caught:
        open_session("onnxruntime==1.17.3", probe(tmp_path))
    assert caught.value.code == "EW-R001"
    assert caught.value.fix == "edgewright runtimes add onnxruntime==1.17.3"


@pytest.mark.parametrize(
    "damage",
    ["", "[]", '{"package": "onnxruntime"}', '{"package": "onnxruntime", "version": "1.17.4", "python": "", "wheels": {}}'],
)
def test_a_damaged_or_moved_environment_is_not_there(damage: str) -> None:
    folder = stand_in("onnxruntime==1.17.3")
    (folder / RECORD).write_text(damage)
    assert find_environment("onnxruntime", "1.17.3") is None


def test_an_environment_without_its_interpreter_is_not_there() -> None:
    (stand_in("onnxruntime==1.17.3") / "bin" / "python").unlink()
    assert list_environments() == ()


def test_removing_leaves_nothing_behind() -> None:
    folder = stand_in("onnxruntime==1.17.3")
    remove_environment(parse_pin("onnxruntime==1.17.3"))
    assert not folder.exists()
    assert list(environments_root().iterdir()) == []


def test_removing_what_is_not_there_names_what_is() -> None:
    stand_in("onnxruntime==1.17.3")
    with pytest.raises(UsageError, match=r"no environment of onnxruntime==1\.16\.3") as caught:
        remove_environment(parse_pin("onnxruntime==1.16.3"))
    assert "onnxruntime==1.17.3" in caught.value.why


def test_what_is_there_is_not_made_again() -> None:
    stand_in("onnxruntime==1.17.3")
    assert add_environment("onnxruntime==1.17.3").wheels == {"a.whl": "00"}


def test_a_failure_of_pip_shows_its_last_lines_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with pytest.raises(RuntimeFailure, match=r"onnxruntime==1\.17\.3 cannot be installed: its wheels cannot be had") as caught:
        add_environment("onnxruntime==1.17.3", find_links=tmp_path / "wheels")
    assert caught.value.code == "EW-R001"
    assert "No matching distribution found" in caught.value.why
    assert list(environments_root().iterdir()) == []


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ('import os, sys; print("no venv here"); sys.exit(1)', "no venv here"),
        (None, "No such file"),
    ],
)
def test_an_interpreter_that_cannot_make_environments_is_an_error(tmp_path: Path, script: str | None, code: str) -> None:
    python = tmp_path / "python"
    if script is not None:
        python.write_text(f"#!{sys.executable}\n{script}\n")
        python.chmod(0o755)
    with pytest.raises(RuntimeFailure, match="its virtual environment cannot be made") as caught:
        add_environment("onnxruntime==1.17.3", python=python)
    assert code in caught.value.why


def test_the_command_lists_and_removes(capsys: pytest.CaptureFixture[str]) -> None:
    stand_in("onnxruntime==1.17.3")
    assert main(["runtimes", "list", "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)["environments"]
    assert (entry["package"], entry["version"], entry["wheels"]) == ("onnxruntime", "1.17.3", {"a.whl": "00"})
    assert main(["runtimes", "remove", "onnxruntime==1.17.3"]) == 0
    assert capsys.readouterr().out == "onnxruntime==1.17.3 removed\n"
    assert main(["runtimes", "list"]) == 0
    assert "edgewright runtimes add" in capsys.readouterr().err


def test_the_command_refuses_other_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runtimes", "add", "requests==2.0.0"]) == 2
    assert "EW-U001" in capsys.readouterr().err
    assert not environments_root().exists()


def test_doctor_shows_every_environment(capsys: pytest.CaptureFixture[str]) -> None:
    stand_in("onnxruntime==1.17.3")
    assert main(["doctor", "--json"]) == 0
    names = {entry["name"]: entry["version"] for entry in json.loads(capsys.readouterr().out)}
    assert names["onnxruntime==1.17.3"] == "1.17.3"


def test_variables_of_this_interpreter_do_not_reach_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "path: $PYTHONPATH."; exit 1\n')
    python.chmod(0o755)
    with pytest.raises(RuntimeFailure) as caught:
        add_environment("onnxruntime==1.17.3", python=python)
    assert "path: ." in caught.value.why
    assert os.environ["PYTHONPATH"] == "elsewhere"

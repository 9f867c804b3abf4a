"""The stage between writing and verifying: what it gives, what an absent compiler means, and what a bundle keeps of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from exporter import read_bundle
from exporter.cli.main import main
from exporter.compilers import COMPILERS, all_compilers, registry
from targets import check_file
from targets.schema import COMPILER_OPTIONS

PROFILE = """
extends = "cortex-m7"
name = "some-npu"
title = "a microcontroller with an NPU"

[compile]
compiler = "vela"
architectures = ["ethos-u55-128", "ethos-u55-32"]
options = { system_config = "Ethos_U55_High_End_Embedded", memory_mode = "Shared_Sram" }
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "some-npu.toml"
    path.write_text(PROFILE)
    return path


def export(profile: Path, out: Path, *arguments: str) -> int:
    data = ("--calib", "tools.zoo:calibration_digits", "--samples", "8", "--test-samples", "4", "--effort", "fast")
    return main(["export", "tools.zoo:digit_cnn", "--target", str(profile), *data, "--out", str(out), *arguments])


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {name: replace(entry, package="a-package-that-is-not-there") for name, entry in COMPILERS.items()}
    monkeypatch.setattr(registry, "COMPILERS", gone)


def test_every_compiler_that_a_profile_may_name_is_known() -> None:
    assert set(COMPILERS) == set(COMPILER_OPTIONS)
    assert [found.name for found in all_compilers()] == list(COMPILERS)


def test_each_architecture_has_its_files_in_the_bundle_under_the_manifest(profile: Path, tmp_path: Path) -> None:
    assert export(profile, tmp_path / "one") == 0
    bundle = read_bundle(tmp_path / "one" / "some-npu")
    hashes = {record.name: record.sha256 for record in bundle.manifest.outputs}
    folders = ("compiled/ethos-u55-128", "compiled/ethos-u55-32")
    for record, folder in zip(bundle.manifest.compiled, folders, strict=True):
        assert (record["compiler"], record["architecture"]) == ("vela", folder.rpartition("/")[2])
        assert record["files"][0] == f"{folder}/model_vela.tflite"
        for name in (*record["files"], f"{folder}/log.txt", f"{folder}/compiled.json"):
            assert hashlib.sha256((bundle.path / name).read_bytes()).hexdigest() == hashes[name]
        assert str(tmp_path) not in (bundle.path / folder / "log.txt").read_text()
    parsed = [json.loads((bundle.path / folder / "compiled.json").read_text()) for folder in folders]
    assert parsed[0]["figures"]["cycles"] < parsed[1]["figures"]["cycles"]  # 128 and 32 multiply-accumulates a cycle
    report = json.loads((bundle.path / "report.json").read_text())
    assert [row["architecture"] for row in report["compiled"]] == ["ethos-u55-128", "ethos-u55-32"]
    flashed = (bundle.path / "firmware" / "digit_cnn_model.c").read_text()
    assert flashed.count("0x") == len((bundle.path / folders[0] / "model_vela.tflite").read_bytes())
    assert "AddEthosU()" in (bundle.path / "firmware" / "digit_cnn_ops.h").read_text()
    page = (bundle.path / "report.html").read_text()
    assert "Compiled by vela" in page
    assert "not compiled" not in page

    assert export(profile, tmp_path / "two") == 0
    again = {record.name: record.sha256 for record in read_bundle(tmp_path / "two" / "some-npu").manifest.outputs}
    assert again == hashes


@pytest.mark.usefixtures("absent")
def test_without_the_compiler_the_artifact_is_written_and_the_report_says_how_to_get_it(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(profile, tmp_path / "out") == 0
    bundle = read_bundle(tmp_path / "out" / "some-npu")
    assert bundle.manifest.compiled == ()
    assert not (bundle.path / "compiled").exists()
    for text in ((bundle.path / "report.html").read_text(), capsys.readouterr().err):
        assert "not compiled: vela" in text
        assert "edgewright[npu]" in text  # nothing of it taken for mark-up


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("by", ["flag", "profile"])
def test_where_the_compiler_is_required_its_absence_is_an_error(
    by: str, profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if by == "profile":
        profile.write_text(PROFILE + "required = true\n")
    assert export(profile, tmp_path / "out", *(["--require-compiler"] if by == "flag" else [])) == 5
    assert "EW-R006" in capsys.readouterr().err
    assert not (tmp_path / "out" / "some-npu").exists()


@pytest.mark.parametrize(
    ("written", "key", "said"),
    [
        ('compiler = "tvm"', "compile.compiler", "vela"),
        ('compiler = "vela"\narchitectures = []', "compile.architectures", "at least 1"),
        ('compiler = "vela"\narchitectures = ["ethos-u55-128"]\noptions = { speed = 3 }', "compile.options.speed", "memory_mode"),
        ('compiler = "vela"\narchitectures = ["ethos-u55-128"]\noptions = { config = 3 }', "compile.options.config", "str"),
        ('compiler = "vela"\narchitectures = ["ethos-u55-128"]\nstrict = true', "compile.strict", "required"),
    ],
)
def test_a_bad_table_is_named_with_its_line_and_what_is_allowed(written: str, key: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f'extends = "cortex-m7"\nname = "bad"\n\n[compile]\n{written}\n')
    problems = [problem for problem in check_file(path) if problem.key == key]
    assert len(problems) == 1
    assert said in problems[0].message
    assert problems[0].line is not None

"""`edgewright targets list | show | check`."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from diagnostics import TargetError
from exporter.cli.targets import command
from targets import Target, load_target, target_names


def test_list_prints_a_line_a_target_and_json_every_profile() -> None:
    plain = CliRunner().invoke(command, ["list"])
    assert plain.exit_code == 0
    assert [line.split("\t")[0] for line in plain.output.splitlines()] == list(target_names())
    entries = json.loads(CliRunner().invoke(command, ["list", "--json"]).output)
    assert [entry["name"] for entry in entries] == list(target_names())


def test_show_prints_the_resolved_profile() -> None:
    shown = CliRunner().invoke(command, ["show", "x86-64-avx2-cpu"])
    data = tomllib.loads(shown.output)
    assert data["quantization"]["weights_range"] == "reduced"
    assert data["artifact"]["runtime"] == "onnxruntime"
    as_json = json.loads(CliRunner().invoke(command, ["show", "cortex-m7", "--json"]).output)
    assert Target.model_validate(as_json) == load_target("cortex-m7")


def test_show_of_an_unknown_target_raises_for_the_entry_point_to_tell() -> None:
    result = CliRunner().invoke(command, ["show", "cortex-m8"])
    assert isinstance(result.exception, TargetError)
    assert result.exception.code == "EW-T001"


@pytest.mark.parametrize("as_json", [True, False])
def test_check_tells_problems_by_line_and_by_exit_status(tmp_path: Path, as_json: bool) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text('extends = "cortex-m7"\nname = "good"\n')
    bad.write_text('extends = "cortex-m7"\nname = "bad"\n[memory]\nflash = 0\n')
    flags = ["--json"] if as_json else []
    passed = CliRunner().invoke(command, ["check", str(good), *flags])
    failed = CliRunner().invoke(command, ["check", str(bad), *flags])
    assert (passed.exit_code, failed.exit_code) == (0, 4)
    if as_json:
        assert json.loads(passed.output) == {"valid": True, "problems": []}
        (problem,) = json.loads(failed.output)["problems"]
        assert (problem["line"], problem["key"]) == (4, "memory.flash")
    else:
        assert "valid" in passed.output
        assert "bad.toml:4: memory.flash" in failed.output


def test_help_loads_no_profile_and_nothing_heavy() -> None:
    script = "import sys, exporter.cli.targets; print([m for m in ('numpy', 'pydantic', 'rich', 'targets.schema') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The entry point: fast help without heavy imports, and one exit status for each kind of failure."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from diagnostics import CODES, DataError, EdgewrightError, GateError, ModelError, RuntimeFailure, TargetError, UsageError
from exporter.cli import main as entry

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "onnxruntime", "onnx_ir", "onnx", "numpy", "pydantic", "matplotlib", "scipy", "rich", "jinja2")


@pytest.fixture
def raising(monkeypatch):
    """Makes `edgewright fail` raise the given exception (or return the given value) and returns (status, stdout, stderr)."""

    def run(outcome, capsys, *arguments):
        @click.command()
        @click.option("--json", "as_json", is_flag=True)
        def fail(as_json):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        module = type(sys)("edgewright_test_fail")
        module.command = fail
        monkeypatch.setitem(sys.modules, "edgewright_test_fail", module)
        monkeypatch.setitem(entry.COMMANDS, "fail", ("edgewright_test_fail:command", "fails"))
        status = entry.main(["fail", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from exporter.cli.main import main; status = main(['--help']);"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stdout  # how long it takes is measured in tools.bench
    assert all(f"  {name} " in done.stdout for name in entry.COMMANDS)


@pytest.mark.parametrize("name", list(entry.COMMANDS))
def test_every_command_of_the_table_exists_and_shows_its_help(name, capsys):
    assert entry.main([name, "--help"]) == 0
    assert f"Usage: edgewright {name}" in capsys.readouterr().out


def test_version(capsys):
    assert entry.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("edgewright 0.")


@pytest.mark.parametrize(
    ("cls", "code", "status"),
    [
        (GateError, "EW-G001", 1),
        (UsageError, "EW-U002", 2),
        (ModelError, "EW-M002", 3),
        (DataError, "EW-D002", 3),
        (TargetError, "EW-T003", 4),
        (RuntimeFailure, "EW-R003", 5),
    ],
)
def test_an_error_is_one_message_on_stderr_and_its_own_exit_status(raising, capsys, cls, code, status):
    error = cls(code, "the thing is wrong", where="node conv_1", why="because", fix="do this")
    found, out, err = raising(error, capsys)
    assert (found, out) == (status, "")
    assert err == f"{code}: the thing is wrong\n  where: node conv_1\n  why: because\n  fix: do this\n"


def test_with_json_the_error_is_data_on_stdout(raising, capsys):
    status, out, err = raising(TargetError("EW-T001", "no such target", fix="list them"), capsys, "--json")
    assert status == 4
    assert err == ""
    assert json.loads(out)["error"] == {
        "code": "EW-T001",
        "what": "no such target",
        "where": "",
        "why": "",
        "fix": "list them",
        "exit_status": 4,
    }


def test_unexpected_exceptions_are_called_bugs_and_show_no_traceback_unless_asked(raising, capsys, monkeypatch):
    status, _, err = raising(ZeroDivisionError("oops"), capsys)
    assert status == 70
    assert "this is a bug in edgewright: ZeroDivisionError: oops" in err
    assert "Traceback" not in err
    monkeypatch.setenv("EDGEWRIGHT_DEBUG", "1")
    status, _, err = raising(ZeroDivisionError("oops"), capsys)
    assert status == 70
    assert "Traceback" in err


@pytest.mark.parametrize(("outcome", "status"), [(KeyboardInterrupt(), 130), (None, 0), (1, 1), ("text", 0)])
def test_interrupts_and_returned_statuses(raising, capsys, outcome, status):
    assert raising(outcome, capsys)[0] == status


def test_sigterm_removes_what_is_half_written_as_an_interrupt_does(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, tempfile, time\n"
        "def model():\n"
        "    with tempfile.TemporaryDirectory(dir=os.environ['PLACE']) as folder:\n"
        "        pathlib.Path(folder, 'half').touch()\n"
        "        time.sleep(60)\n"
    )
    (tmp_path / "place").mkdir()
    code = "import sys; from exporter.cli.main import main; sys.exit(main(['convert', 'slow:model', 'm.tflite']))"
    environment = {**os.environ, "PLACE": str(tmp_path / "place"), "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    for _ in range(300):
        if list((tmp_path / "place").glob("*/half")):
            break
        time.sleep(0.1)
    process.terminate()
    assert "interrupted" in process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert not list((tmp_path / "place").iterdir())


@pytest.mark.parametrize("arguments", [["exprot"], ["inspect"], ["inspect", "--no-such-option"], ["--nonsense"]])
def test_usage_errors_exit_2_with_a_way_out(arguments, capsys):
    assert entry.main(arguments) == 2
    err = capsys.readouterr().err
    assert "EW-U001" in err
    assert "--help" in err


def test_usage_errors_as_json(capsys):
    assert entry.main(["inspect", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["exit_status"]) == ("EW-U001", 2)
    assert "MODEL" in error["what"]


def test_every_code_belongs_to_a_class_by_its_letter():
    """The letter of a code tells its kind, so no code may use another letter."""
    assert {code[3] for code in CODES} <= set("UMDQPTRG")
    assert all(issubclass(cls, EdgewrightError) for cls in (GateError, UsageError, ModelError))


def test_the_installed_script_is_this_function():
    script = Path(sys.executable).with_name("edgewright")
    if not script.exists():
        pytest.skip("edgewright is not installed as a script in this environment")
    done = subprocess.run([script, "inspect", "no-such-file.onnx"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stderr.startswith("EW-M001")

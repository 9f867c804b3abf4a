"""A compiler that refuses, crashes or hangs is an error with a code, within its time, and nothing of it stays behind."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from diagnostics import CompilerFailure
from exporter.compilers.process import run_compiler


def run(code: str, folder: Path, timeout_s: float = 20) -> str:
    return run_compiler([sys.executable, "-c", code], label="cc", folder=folder, timeout_s=timeout_s)


def test_both_streams_are_the_log_and_the_folder_is_where_it_works(tmp_path: Path) -> None:
    code = "import os, sys; print('out', flush=True); print('err', file=sys.stderr, flush=True); open('made', 'w').write(os.getcwd())"
    assert run(code, tmp_path).split() == ["out", "err"]
    assert Path((tmp_path / "made").read_text()) == tmp_path


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        ("raise SystemExit('no such operator')", "EW-R007", "no such operator"),
        ("import os, signal; print('before', flush=True); os.kill(os.getpid(), signal.SIGSEGV)", "EW-R008", "before"),
        ("import time; print('thinking', flush=True); time.sleep(60)", "EW-R009", "thinking"),
    ],
)
def test_what_goes_wrong_has_a_code_and_the_last_lines(code: str, expected: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(CompilerFailure) as caught:
        run(code, tmp_path, timeout_s=3)
    assert caught.value.code == expected
    assert caught.value.exit_status == 5
    assert said in caught.value.why


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CompilerFailure) as caught:
        run_compiler([tmp_path / "none"], label="cc", folder=tmp_path, timeout_s=3)
    assert caught.value.code == "EW-R006"


def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    child = "import time; time.sleep(1.5); open('late', 'w').write('still here')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    with pytest.raises(CompilerFailure):
        run(code, tmp_path, timeout_s=0.7)
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()

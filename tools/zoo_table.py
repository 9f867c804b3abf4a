"""``make zoo``: every model of the zoo from its own format into every form, measured on data that calibration did not see.

Each row comes from a process of its own (`tools.zoo_rows`) with a time limit. Results go to docs/benchmarks/zoo.json as they come, from which
the page docs/zoo.md is generated; with names of models only those rows are made anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tools.zoo_cases import CASES
from tools.zoo_page import PAGE, RESULTS, zoo_page
from tools.zoo_rows import FORMS

__all__ = ["main", "row"]

_LIMIT_S: Final = 900.0
_VERSIONS: Final = ("onnxruntime", "ai-edge-litert", "torch")


def row(model: str, form: str, limit_s: float = _LIMIT_S) -> dict[str, Any]:
    """What `tools.zoo_rows` says of a model in a form; a process that fails or takes longer than `limit_s` is a row of status "failed"."""
    command = [sys.executable, "-m", "tools.zoo_rows", model, form]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False, cwd=root, env=environment)
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": f"took longer than {limit_s:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"status": "failed", "reason": lines[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str]) -> int:
    """The command line; exit status 1 where a process failed (a refusal with a reason is none)."""
    parser = argparse.ArgumentParser(prog="python -m tools.zoo_table", description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", help="models to measure anew; without any: all")
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--limit", type=float, default=_LIMIT_S, help="seconds a row")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures are kept")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.models) - set(CASES):
        parser.error(f"no model of the zoo: {', '.join(sorted(unknown))}")
    kept = json.loads(chosen.json.read_text(encoding="utf-8"))["rows"] if chosen.json.is_file() else {}
    failed = False
    for model in chosen.models or CASES:
        for form in chosen.forms:
            found = row(model, form, chosen.limit)
            kept.setdefault(model, {})[form] = found
            failed |= found["status"] == "failed"
            print(_line(model, form, found), flush=True)
            chosen.json.parent.mkdir(parents=True, exist_ok=True)
            ordered = {name: {key: kept[name][key] for key in FORMS if key in kept[name]} for name in CASES if name in kept}
            result = {"machine": platform.machine(), "versions": {name: version(name) for name in _VERSIONS}, "rows": ordered}
            chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if chosen.json == RESULTS:
        PAGE.write_text(zoo_page(), encoding="utf-8")
    return int(failed)


def _line(model: str, form: str, found: Mapping[str, Any]) -> str:
    if found["status"] != "measured":
        return f"{model:20s} {form:10s} {found['status']}: {found['reason']}"
    decibels = " ".join(f"{float(value):6.1f}" for value in found["sqnr_db"].values())
    task = "".join(f"  {name} {score['original']:.4f} -> {score['artifact']:.4f}" for name, score in found["task"].items())
    return f"{model:20s} {form:10s} {decibels} dB{task}  {found['bytes'] / 1024:.0f} KiB  {found['build_cpu_s']:.1f} CPU s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

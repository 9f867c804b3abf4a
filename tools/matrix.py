"""``make matrix``: every model of the zoo on every target, exported and proved or refused with its reasons, onto docs/targets.md.

Rows are kept in docs/targets/TARGET.json as they come. A row that is there is kept as long as the target's profile is the one it was made
with; with names of models those are made anew.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from exporter.runtimes.landing import Kept
from targets import load_target, target_names
from tools.matrix_page import PAGE, RESULTS, read_rows, targets_page
from tools.matrix_rows import profile_digest
from tools.zoo_cases import CASES

__all__ = ["main", "rows_of"]

_LIMIT_S: Final = 600.0
_ROOT: Final = Path(__file__).resolve().parents[1]


def rows_of(model: str, targets: Sequence[str], limit_s: float = _LIMIT_S) -> Iterator[tuple[str, dict[str, Any]]]:
    """Target and row, one after another. A process that crashes, or is silent for `limit_s`, is a row of status "failed"."""
    left = list(targets)
    while left:
        command = [sys.executable, "-m", "tools.matrix_rows", model, *left]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        kept = Kept(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=_ROOT, env=environment)
        try:
            said, errors = _lines(kept.process.stdout), _lines(kept.process.stderr)
            while left and (line := said.get(timeout=limit_s)) is not None:
                if line.startswith("{"):
                    yield left.pop(0), json.loads(line)
            reason = "" if not left else _last(errors)
        except queue.Empty:
            reason = f"took longer than {limit_s:.0f} s"
        finally:
            kept.end()
        if left:
            target = left.pop(0)
            yield target, {"status": "failed", "what": reason, "profile": profile_digest(load_target(target))}


def _lines(stream: Any) -> queue.SimpleQueue[str | None]:
    """The lines of a pipe as they come, and None at its end."""
    found: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            found.put(line)
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    return found


def _last(errors: queue.SimpleQueue[str | None]) -> str:
    """The last line of what a process wrote to stderr before it ended."""
    last = "it ended without a word"
    while (line := errors.get(timeout=5)) is not None:
        last = line.strip() or last
    return last


def main(arguments: Sequence[str]) -> int:
    """The command line; exit status 1 where a process failed (a refusal with a reason is none)."""
    parser = argparse.ArgumentParser(prog="python -m tools.matrix", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "models", nargs="*", help="models to make anew; without any: all whose rows are missing or of another profile"
    )
    parser.add_argument("--targets", nargs="+", choices=target_names(), default=target_names())
    parser.add_argument(
        "--missing", action="store_true", help="of the models that are named, too, only the rows that are missing"
    )
    parser.add_argument("--limit", type=float, default=_LIMIT_S, help="seconds a row")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.models) - set(CASES):
        parser.error(f"no model of the zoo: {', '.join(sorted(unknown))}")
    digests = {name: profile_digest(load_target(name)) for name in chosen.targets}
    failed = False
    for model in chosen.models or CASES:
        kept = read_rows()
        anew = chosen.models and not chosen.missing
        wanted = [name for name in chosen.targets if anew or kept.get(name, {}).get(model, {}).get("profile") != digests[name]]
        for target, row in rows_of(model, wanted, chosen.limit):
            failed |= row["status"] == "failed"
            _keep(target, model, row)
            print(f"{model:20s} {target:24s} {row['status']} {row.get('sqnr_db', row.get('code', row.get('what')))}", flush=True)
    PAGE.write_text(targets_page(), encoding="utf-8")
    return int(failed)


def _keep(target: str, model: str, row: dict[str, Any]) -> None:
    rows = {**read_rows().get(target, {}), model: row}
    RESULTS.mkdir(parents=True, exist_ok=True)
    ordered = {name: rows[name] for name in CASES if name in rows}
    (RESULTS / f"{target}.json").write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

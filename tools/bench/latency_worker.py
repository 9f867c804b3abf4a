"""Latency of several artifacts of one runtime in one process, in paired rounds: ``python -m tools.bench.latency_worker``.

Each is loaded with one thread, a .tflite with XNNPACK. A round runs every artifact once, in an order that rotates, so that whatever else
the machine does meets all of them alike; what counts is CPU time, which on one thread is the latency of a machine that does nothing else.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from exporter.runtimes.registry import runtime_of
from exporter.runtimes.worker import ADAPTERS, Adapter, Arrays, receive, send

__all__ = ["main", "paired_rounds"]

_LEAST, _MOST = 20, 400  # rounds


def paired_rounds(adapters: Sequence[Adapter], budget_s: float) -> list[list[float]]:
    """CPU seconds of every round, one row an adapter: as many rounds as `budget_s` seconds hold, within limits."""
    for adapter in adapters:
        adapter.invoke()
    seconds: list[list[float]] = [[] for _ in adapters]
    end = time.perf_counter() + budget_s
    for number in range(_MOST):
        if number >= _LEAST and time.perf_counter() > end:
            break
        for place in range(len(adapters)):
            index = (place + number) % len(adapters)
            start = time.process_time()
            adapters[index].invoke()
            seconds[index].append(time.process_time() - start)
    return seconds


def main() -> int:
    """Answer one request ``{"paths": [...], "budget_s": S}``, whose arrays are named "PLACE:INPUT", by ``{"seconds": [[...], ...]}``.

    A request may name its "runtime", as `exporter.runtimes` does; LiteRT is meant where it does not.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    message = receive(requests)
    if message is None:
        return 0
    meta, arrays = message
    runtime = runtime_of(meta.get("runtime", "litert-xnnpack"))
    adapters = []
    for place, path in enumerate(meta["paths"]):
        adapter = ADAPTERS[runtime.adapter](path, {**runtime.options, "threads": 1})
        adapter.feed(_of(arrays, place))
        adapters.append(adapter)
    send(answers, {"seconds": paired_rounds(adapters, meta["budget_s"])})
    return 0


def _of(arrays: Arrays, place: int) -> Arrays:
    head = f"{place}:"
    return {name.removeprefix(head): array for name, array in arrays.items() if name.startswith(head)}


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tools.bench [ratios|convert|quantization|estimate] ...``: which benchmark; without a name it is `ratios`."""

from __future__ import annotations

import sys

from tools.bench import convert, estimate, quantization, ratios

__all__ = ["main"]

_BENCHMARKS = {"ratios": ratios.main, "convert": convert.main, "quantization": quantization.main, "estimate": estimate.main}


def main(arguments: list[str]) -> int:
    name = arguments[0] if arguments and arguments[0] in _BENCHMARKS else None
    return _BENCHMARKS[name or "ratios"](arguments[1:] if name else arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

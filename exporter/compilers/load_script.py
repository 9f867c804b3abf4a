"""Load one artifact on an NPU's runtime and have the compiled form written: ``python load_script.py WORKER ADAPTER ARTIFACT OPTIONS``.

WORKER is the path of `exporter.runtimes.worker`, of which ADAPTER is used; OPTIONS are its options as JSON. The last line that it prints is the
adapter's report as JSON. Like the worker it imports nothing of edgewright and runs under any interpreter that has the runtime.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys

if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
    del sys.path[0]  # the modules beside this file must not shadow a runtime's own imports


def main(arguments: list[str]) -> int:
    """Exit status 1 where the runtime refuses, with its sentence on stderr."""
    path, name, artifact, options = arguments
    spec = importlib.util.spec_from_file_location("worker", path)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    try:
        adapter = worker.ADAPTERS[name](artifact, json.loads(options))
    except Exception as error:  # whatever a runtime raises is its refusal
        print(error, file=sys.stderr)
        return 1
    sys.stderr.flush()
    print(json.dumps(adapter.report()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

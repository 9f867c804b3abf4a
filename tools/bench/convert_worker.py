"""One converter in a process of its own: ``python convert_worker.py SIDE``, spoken to in the protocol of `exporter.runtimes.worker`.

It imports what it needs, says so, and then converts once a request ``{"model": PATH, "zoo": NAME, "folder": PATH}``: the answer has the
seconds of CPU (its own and its children's) and wall from the model file (of torch converters: the module) to the .tflite on disk, and the
peak memory in MiB so far. It runs in a peer's environment, so it imports nothing of edgewright unless it is our own side.
"""

from __future__ import annotations

import glob
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path[0] = os.path.join(ROOT, "exporter", "runtimes")  # the modules beside this file must not shadow a peer's imports
import worker  # noqa: E402 - it takes its folder off the path again

sys.path.append(ROOT)

Convert = Callable[[dict[str, Any]], str]  # a request -> the path of the .tflite


def edgewright(io_layout: str, *, check: bool) -> Convert:
    """Ours: what `convert` does, or the same without its run of the artifact beside the original."""
    from exporter import convert
    from exporter.converting import any_device
    from exporter.frontends import load
    from exporter.pipeline import build

    def run(request: dict[str, Any]) -> str:
        out = os.path.join(request["folder"], "model.tflite")
        if check:
            convert(request["model"], out, io_layout=io_layout, overwrite=True)
            return out
        written = build(load(request["model"]), any_device("tflite", "float32", io_layout), None).artifact
        with open(out, "wb") as file:
            file.write(written.content)
        return out

    return run


def onnx2tf(*, simplify: bool) -> Convert:
    """Its direct back-end, as `onnx2tf -i model.onnx` runs it; it always writes a float16 file as well."""
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]  # it calls the command onnxsim
    from onnx2tf.onnx2tf import convert

    def run(request: dict[str, Any]) -> str:
        convert(
            input_onnx_file_path=request["model"],
            output_folder_path=request["folder"],
            tflite_backend="flatbuffer_direct",
            not_use_onnxsim=not simplify,
            non_verbose=True,
        )
        return glob.glob(os.path.join(glob.escape(request["folder"]), "*_float32.tflite"))[0]

    return run


def litert_torch() -> Convert:
    """From the zoo's module itself, as it reads no ONNX."""
    import litert_torch as peer

    from tools import zoo

    def run(request: dict[str, Any]) -> str:
        out = os.path.join(request["folder"], "model.tflite")
        made = getattr(zoo, request["zoo"])()
        started.update(cpu=_cpu(), wall=time.perf_counter())  # building the module is none of its work
        peer.convert(made["model"], made["inputs"]).export(out)
        return out

    return run


SIDES: dict[str, Callable[[], Convert]] = {
    "edgewright": lambda: edgewright("keep", check=False),
    "edgewright, free I/O": lambda: edgewright("channels_last", check=False),
    "edgewright convert": lambda: edgewright("keep", check=True),
    "onnx2tf": lambda: onnx2tf(simplify=True),
    "onnx2tf, no onnxsim": lambda: onnx2tf(simplify=False),
    "litert-torch": litert_torch,
}
started: dict[str, float] = {}


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _peak_mib() -> float:
    """Of this process since it began (unlike ru_maxrss without what the process that started it held), or of its largest child."""
    with open("/proc/self/status") as status:
        own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def main(side: str) -> int:
    """Serve requests until stdin ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    convert = SIDES[side]()
    worker.send(answers, {"ready": True})
    while (message := worker.receive(requests)) is not None:
        started.update(cpu=_cpu(), wall=time.perf_counter())
        try:
            path = convert(message[0])
            spent = {"cpu_s": _cpu() - started["cpu"], "wall_s": time.perf_counter() - started["wall"]}
            answer: dict[str, Any] = {"path": path, "peak_mib": _peak_mib(), **spent}
        except (Exception, SystemExit) as error:
            answer = {"error": f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]}
        worker.send(answers, answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""The worker's adapter of Rockchip's toolkit, which runs in an environment of its own and prints as it likes.

Like the worker it imports nothing of edgewright; the worker hands it what it builds on.
"""

# ruff: noqa: B905 - zip(strict=) needs Python 3.10, and this file runs from 3.9 on
from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["adapter"]

# Of the toolkit's optimizations, from its own default on. Its compiler crashes at 3 for the RK3588 where a softmax stands between products of
# int8; at 2 it fuses less.
LEVELS = (3, 2, 1, 0)
# One of three rules of the toolkit that undo each other for ever where an input of three axes is quantized and then multiplied.
ENDLESS = "swap_reshape_transpose_v2"
# What a crash ends a process by; one that the system killed, for its memory mostly, would be killed at any level.
CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)


def adapter(base: Any, info: Callable[..., dict[str, Any]]) -> Any:
    """The adapter's class, from the worker's `Adapter` and what describes a tensor there."""

    class Rknn(base):  # type: ignore[misc]
        """Rockchip's toolkit: builds the artifact for an NPU, and simulates what it built.

        Options: target_platform ("rk3588"), optimization_level (of the toolkit, 0 to 3, default the highest that it builds the artifact at
        without a crash), compiled (a file that takes the .rknn).
        """

        def __init__(self, artifact: str, options: dict[str, Any]) -> None:
            import onnx

            graph = onnx.load(artifact, load_external_data=False).graph
            constants = {tensor.name for tensor in graph.initializer}
            self.inputs = [self._describe(value) for value in graph.input if value.name not in constants]
            self.outputs = [self._describe(value) for value in graph.output]
            # It takes four axes for channels-last pictures unless it is told; of others it does not ask.
            self._layouts = ["nchw"] * len(self.inputs)
            platform, level = str(options.get("target_platform", "rk3588")), options.get("optimization_level")
            self._level = int(level) if level is not None else self._highest_level(artifact, platform)
            self._rknn = self._built(artifact, platform, self._level)
            if options.get("compiled"):
                self._do("write what it built", self._rknn.export_rknn(str(options["compiled"])))
            self._ready = False
            self._results: list[Any] = []

        def report(self) -> dict[str, Any]:
            """`optimization_level`: the one that it was built at."""
            return {"optimization_level": self._level}

        def _highest_level(self, artifact: str, platform: str) -> int:
            """Each try is a forked child, which must come before the toolkit is imported here: threads do not survive a fork."""
            for level in LEVELS[:-1]:
                child = os.fork()
                if child == 0:
                    silent = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(silent, 1)
                    os.dup2(silent, 2)
                    try:
                        self._built(artifact, platform, level)
                    finally:
                        os._exit(0)  # a refusal is said again, by the parent
                status = os.waitpid(child, 0)[1]
                if not os.WIFSIGNALED(status) or os.WTERMSIG(status) not in CRASHES:
                    return level
            return LEVELS[-1]

        def _built(self, artifact: str, platform: str, level: int) -> Any:
            from rknn.api import RKNN

            rknn = RKNN(verbose=False)
            endless = {"disable_rules": [ENDLESS]} if any(len(given["shape"]) == 3 for given in self.inputs) else {}
            self._do("take the platform " + platform, rknn.config(target_platform=platform, optimization_level=level, **endless))
            self._do("read the artifact", rknn.load_onnx(model=artifact))
            self._do("build the artifact", rknn.build(do_quantization=False))
            return rknn

        @staticmethod
        def _do(what: str, status: int) -> None:
            if status != 0:
                raise ValueError(f"rknn-toolkit2 did not {what}: status {status}")

        @staticmethod
        def _describe(value: Any) -> dict[str, Any]:
            import onnx

            tensor = value.type.tensor_type
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
            return info(value.name, [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim], dtype)

        def feed(self, arrays: dict[str, Any]) -> None:
            if not self._ready:
                self._do("start its simulator", self._rknn.init_runtime())
                self._ready = True
            self._feeds = [arrays[given["name"]] for given in self.inputs]

        def invoke(self) -> None:
            self._results = self._rknn.inference(inputs=self._feeds, data_format=self._layouts)
            if self._results is None:
                raise ValueError("rknn-toolkit2 did not simulate the artifact")

        def fetch(self) -> dict[str, Any]:
            return {given["name"]: np.asarray(array, given["dtype"]) for given, array in zip(self.outputs, self._results)}

    return Rknn

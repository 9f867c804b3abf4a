"""Run one artifact on one runtime, for a parent process that asks over stdin and stdout.

This file imports nothing of edgewright: it needs Python 3.9, numpy 1.26 and the one runtime, so that it runs by path under
any interpreter, in an environment with an old runtime, under an emulator or on a board::

    python worker.py ADAPTER ARTIFACT '{"threads": 1}'

A message is an 8-byte little-endian length and that many bytes of an npz archive. Its entry "meta" holds UTF-8 JSON as uint8;
arrays are the entries "0", "1", ... whose names ``meta["arrays"]`` lists in that order. The worker speaks first: a message
with ``{"inputs": [...], "outputs": [...]}`` once the artifact is loaded, or ``{"error": ..., "kind": "missing" | "refused"}``.
Requests are ``{"request": "describe" | "run" | "tensors" | "latency" | "report"}``; end of file on stdin ends the worker.
"""

# ruff: noqa: B905 - zip(strict=) needs Python 3.10, and this file runs from 3.9 on
from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
    del sys.path[0]  # the modules beside this file must not shadow a runtime's own imports

import numpy as np

__all__ = ["ADAPTERS", "Adapter", "answer", "main", "receive", "send"]

Arrays = dict[str, Any]
Info = dict[str, Any]


# --- messages ---------------------------------------------------------------------------------------------------------


def send(stream: BinaryIO, meta: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
    """Write one message."""
    arrays = arrays or {}
    text = json.dumps({**meta, "arrays": list(arrays)}).encode()
    packed = io.BytesIO()
    entries: dict[str, Any] = {str(i): np.asarray(array) for i, array in enumerate(arrays.values())}
    np.savez(packed, meta=np.frombuffer(text, np.uint8), **entries)
    payload = packed.getvalue()
    stream.write(struct.pack("<Q", len(payload)) + payload)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[Info, Arrays] | None:
    """Read one message, or None at the end of the stream."""
    header = stream.read(8)
    if len(header) < 8:
        return None
    payload = stream.read(struct.unpack("<Q", header)[0])
    with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
        meta = json.loads(archive["meta"].tobytes().decode())
        return meta, {name: archive[str(i)] for i, name in enumerate(meta["arrays"])}


# --- adapters ---------------------------------------------------------------------------------------------------------


class Adapter:
    """One loaded artifact. Subclasses import their runtime in `__init__` only."""

    inputs: list[Info]
    outputs: list[Info]

    def run(self, arrays: Arrays) -> Arrays:
        self.feed(arrays)
        self.invoke()
        return self.fetch()

    def feed(self, arrays: Arrays) -> None:
        raise NotImplementedError

    def invoke(self) -> None:
        raise NotImplementedError

    def fetch(self) -> Arrays:
        raise NotImplementedError

    def tensors(self) -> tuple[Arrays, dict[str, Info]]:
        """Every tensor of the last run and its description, by name."""
        raise ValueError("this runtime does not keep intermediate tensors")

    def report(self) -> Info:
        return {}

    def latency(self, arrays: Arrays, repeats: int) -> list[float]:
        """Seconds of each of `repeats` invocations, after one that is not counted."""
        self.feed(arrays)
        self.invoke()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.invoke()
            seconds.append(time.perf_counter() - start)
        return seconds


def _info(name: str, shape: Sequence[Any], dtype: str, quantization: Mapping[str, Any] | None = None) -> Info:
    quantization = quantization or {}
    return {
        "name": name,
        "shape": [int(dim) if isinstance(dim, (int, np.integer)) else -1 for dim in shape],
        "dtype": dtype,
        "scales": [float(scale) for scale in quantization.get("scales", ())],
        "zero_points": [int(point) for point in quantization.get("zero_points", ())],
        "axis": int(quantization.get("quantized_dimension", 0)),
    }


def _unique_names(names: Sequence[str]) -> list[str]:
    """Names as keys: a name that is empty or repeats becomes "index:name"."""
    return [name if name and names.count(name) == 1 else f"{i}:{name}" for i, name in enumerate(names)]


class OnnxRuntime(Adapter):
    """Options: threads, optimize (graph optimizations, default true)."""

    def __init__(self, artifact: str, options: Info) -> None:
        self._session, self._report = self._open(artifact, options)
        self.inputs = [_info(v.name, v.shape, self._dtype(v.type)) for v in self._session.get_inputs()]
        self.outputs = [_info(v.name, v.shape, self._dtype(v.type)) for v in self._session.get_outputs()]
        self._arrays: Arrays = {}
        self._results: list[Any] = []

    def _open(self, artifact: str, options: Info) -> tuple[Any, Info]:
        import onnxruntime as ort

        session = ort.InferenceSession(artifact, self._settings(options), providers=["CPUExecutionProvider"])
        return session, {"providers": session.get_providers()}

    @staticmethod
    def _settings(options: Info) -> Any:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.intra_op_num_threads = int(options.get("threads", 1))
        settings.inter_op_num_threads = 1
        levels = ort.GraphOptimizationLevel
        settings.graph_optimization_level = levels.ORT_ENABLE_ALL if options.get("optimize", True) else levels.ORT_DISABLE_ALL
        return settings

    @staticmethod
    def _dtype(text: str) -> str:
        name = text[len("tensor(") : -1] if text.startswith("tensor(") else text
        return {"float": "float32", "double": "float64"}.get(name, name)

    def feed(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def invoke(self) -> None:
        self._results = self._session.run(None, self._arrays)

    def fetch(self) -> Arrays:
        return dict(zip((value["name"] for value in self.outputs), self._results))

    def report(self) -> Info:
        return self._report


class QnnHtp(OnnxRuntime):
    """The Hexagon NPU of Snapdragons, which the libraries of onnxruntime-qnn emulate where there is none.

    Options: threads, optimize; htp_arch and soc_model (of the device; absent: what the library takes for granted); cpu_fallback (whether
    nodes that the NPU refuses may run on the CPU, default false: then the artifact is refused with their names); context (a file that takes
    the compiled graph, with the NPU's own code beside it); finalization (how long the compiler looks for a faster graph, 1 to 3);
    log_severity (of what is printed, 0 to 4, default 3: errors).
    """

    architectures = (68, 69, 73, 75, 79, 81)  # others the library takes without a word, for none

    def _open(self, artifact: str, options: Info) -> tuple[Any, Info]:
        import onnxruntime as ort

        if int(options.get("htp_arch") or self.architectures[0]) not in self.architectures:
            raise ValueError(f"there is no HTP v{options['htp_arch']}; there are v{', v'.join(map(str, self.architectures))}")
        session = self._session_of(artifact, options, strict=False) if options.get("cpu_fallback", False) else None
        if session is None:
            try:
                session = self._session_of(artifact, options, strict=True)
            except Exception as error:
                if "fallback to CPU EP" not in str(error):
                    raise
                left = self._placed(self._session_of(artifact, {**options, "context": ""}, strict=False))["cpu"]
                raise ValueError("the NPU does not run " + ", ".join(left)) from error
        return session, {"providers": session.get_providers(), "release": ort.__version__, **self._placed(session)}

    def _session_of(self, artifact: str, options: Info, *, strict: bool) -> Any:
        import onnxruntime as ort
        import onnxruntime_qnn as qnn

        name = qnn.get_ep_name()
        if not any(device.ep_name == name for device in ort.get_ep_devices()):
            ort.register_execution_provider_library(name, qnn.get_library_path())
        devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
        settings = self._settings(options)
        settings.log_severity_level = int(options.get("log_severity", 3))
        keys = {"htp_arch": "htp_arch", "soc_model": "soc_model", "finalization": "htp_graph_finalization_optimization_mode"}
        provider = {key: str(options[name]) for name, key in keys.items() if options.get(name)}
        provider["offload_graph_io_quantization"] = "0"  # the artifact's own border too is the NPU's
        if options.get("context"):
            for key, value in {"enable": "1", "embed_mode": "0", "file_path": str(options["context"])}.items():
                settings.add_session_config_entry("ep.context_" + key, value)
        settings.add_provider_for_devices(devices[:1], {"backend_path": qnn.get_qnn_htp_path(), **provider})
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1" if strict else "0")
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return ort.InferenceSession(artifact, settings)

    @staticmethod
    def _placed(session: Any) -> Info:
        """`npu`, `cpu`: the nodes that run on each, "name (type)", sorted; `partitions` of the graph on the NPU."""
        parts = [(part.ep_name, part.get_nodes()) for part in session.get_provider_graph_assignment_info()]
        named = [(ep, sorted(f"{node.name} ({node.op_type})" for node in nodes)) for ep, nodes in parts]
        cpu = [text for ep, texts in named for text in texts if ep == "CPUExecutionProvider"]
        npu = [text for ep, texts in named for text in texts if ep != "CPUExecutionProvider"]
        partitions = sum(ep != "CPUExecutionProvider" for ep, _ in named)
        return {"npu": sorted(npu), "cpu": sorted(cpu), "partitions": partitions}


class OpenVino(Adapter):
    """Options: threads, float ("f32", or "bf16" as the plugin itself chooses on CPUs that have it; integers stay what they are)."""

    def __init__(self, artifact: str, options: Info) -> None:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": options.get("float", "f32"),
            "INFERENCE_NUM_THREADS": int(options.get("threads", 1)),
            "NUM_STREAMS": 1,
        }
        core = openvino.Core()
        model = core.read_model(artifact)
        self.inputs = [self._describe(port, port.node.get_friendly_name()) for port in model.inputs]
        # What is read out of the graph is a node "NAME/sink_port_0"; its tensor has all names that meant the same.
        self.outputs = [self._describe(port, port.node.get_friendly_name().rpartition("/")[0]) for port in model.outputs]
        compiled = core.compile_model(model, "CPU", settings)
        self._kernels = self._executed(compiled)
        self._request = compiled.create_infer_request()

    @staticmethod
    def _describe(port: Any, name: str) -> Info:
        shape = [dimension.get_length() if dimension.is_static else None for dimension in port.partial_shape]
        return _info(name, shape, np.dtype(port.element_type.to_dtype()).name)

    @staticmethod
    def _executed(compiled: Any) -> list[str]:
        facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
        return [fact["layerType"].value + " " + fact["runtimePrecision"].value for fact in facts]

    def feed(self, arrays: Arrays) -> None:
        self._feeds = [np.asarray(arrays[info["name"]], order="C") for info in self.inputs]

    def invoke(self) -> None:
        self._request.infer(self._feeds)

    def fetch(self) -> Arrays:
        # A copy: the tensor is written again by the next inference.
        return {info["name"]: np.array(self._request.get_output_tensor(i).data) for i, info in enumerate(self.outputs)}

    def report(self) -> Info:
        """`kernels`: type and precision of each executed node, for example "Convolution u8"."""
        return {"kernels": self._kernels}


def _beside(name: str) -> Callable[[str, Info], Adapter]:
    """The adapter of a file beside this one, for a runtime that only runs here: its `adapter` makes the class of `Adapter` and `_info`."""

    def create(artifact: str, options: Info) -> Adapter:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not os.path.isfile(path):
            raise ImportError("the worker has no " + name + ".py beside it")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found: Adapter = module.adapter(Adapter, _info)(artifact, options)
        return found

    return create


def _open(detail: Mapping[str, Any]) -> list[int]:
    """The shape, with -1 for a dimension that the file leaves open."""
    signature = detail["shape_signature"]
    shape = detail["shape"]
    return [-1 if at < len(signature) and signature[at] == -1 else int(size) for at, size in enumerate(shape)]


class LiteRt(Adapter):
    """Options: threads, kernels ("ref", "builtin" or "xnnpack"), keep_tensors."""

    def __init__(self, artifact: str, options: Info) -> None:
        interpreter, resolvers = self._load()
        kernels = {
            "ref": resolvers.BUILTIN_REF,
            "builtin": resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "xnnpack": resolvers.AUTO,
        }
        self._keep = bool(options.get("keep_tensors", False))
        self._interpreter = interpreter(
            model_path=artifact,
            num_threads=int(options.get("threads", 1)),
            experimental_op_resolver_type=kernels[options.get("kernels", "xnnpack")],
            experimental_preserve_all_tensors=self._keep,
        )
        self._interpreter.allocate_tensors()
        self._inputs, self._outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs, self.outputs = self._describe(self._inputs), self._describe(self._outputs)

    @staticmethod
    def _load() -> tuple[Any, Any]:
        from ai_edge_litert import interpreter

        return interpreter.Interpreter, interpreter.OpResolverType

    @staticmethod
    def _describe(details: Sequence[Mapping[str, Any]]) -> list[Info]:
        names = _unique_names([d["name"] for d in details])
        return [_info(name, _open(d), np.dtype(d["dtype"]).name, d["quantization_parameters"]) for name, d in zip(names, details)]

    def feed(self, arrays: Arrays) -> None:
        if any(-1 in info["shape"] for info in self.inputs):
            self._resize(arrays)
        self._interpreter.reset_all_variables()  # what a run gives does not depend on those before
        for info, detail in zip(self.inputs, self._inputs):
            self._interpreter.set_tensor(detail["index"], arrays[info["name"]])

    def _resize(self, arrays: Arrays) -> None:
        for info, detail in zip(self.inputs, self._inputs):
            self._interpreter.resize_tensor_input(detail["index"], arrays[info["name"]].shape)
        self._interpreter.allocate_tensors()
        self._inputs, self._outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()

    def invoke(self) -> None:
        self._interpreter.invoke()

    def fetch(self) -> Arrays:
        return {info["name"]: self._fetch(detail) for info, detail in zip(self.outputs, self._outputs)}

    def _fetch(self, detail: Mapping[str, Any]) -> Any:
        if 0 in detail["shape"]:  # LiteRT gives out no tensor without elements
            return np.zeros(detail["shape"], detail["dtype"])
        return self._interpreter.get_tensor(detail["index"])

    def tensors(self) -> tuple[Arrays, dict[str, Info]]:
        if not self._keep:
            raise ValueError("the session was not opened with keep_tensors")
        details = [d for d in self._interpreter.get_tensor_details() if np.dtype(d["dtype"]).kind in "biuf"]
        arrays, infos = {}, {}
        for info, detail in zip(self._describe(details), details):
            try:
                arrays[info["name"]] = self._interpreter.get_tensor(detail["index"])
            except ValueError:  # a scratch tensor of a kernel, or one inside of a delegate: it has no data
                continue
            infos[info["name"]] = info
        return arrays, infos

    def report(self) -> Info:
        """`operators`: kernel names in execution order; `delegated`: number of partitions that a delegate runs."""
        names = [op["op_name"] for op in self._interpreter._get_ops_details()]
        return {"operators": names, "delegated": names.count("DELEGATE")}


class TfliteRuntime(LiteRt):
    """LiteRT under its former name; it has no switch for builtin kernels without XNNPACK before 2.14."""

    @staticmethod
    def _load() -> tuple[Any, Any]:
        from tflite_runtime import interpreter  # type: ignore[import-not-found]

        return interpreter.Interpreter, interpreter.OpResolverType


class TfliteMicro(Adapter):
    """Options: arena_bytes (default: more than any kernel takes), keep_tensors."""

    def __init__(self, artifact: str, options: Info) -> None:
        from tflite_micro.python.tflite_micro import runtime

        self._runtime = runtime
        with open(artifact, "rb") as file:
            self._model = file.read()
        flatbuffer = runtime.convert_bytearray_to_object(self._model)
        graph = flatbuffer.subgraphs[0]
        self._names = _unique_names([(tensor.name or b"").decode() for tensor in graph.tensors])
        self._computed = {
            index: tensor.quantization
            for index, tensor in enumerate(graph.tensors)
            if flatbuffer.buffers[tensor.buffer].data is None
        }
        elements = sum(int(np.prod(t.shape)) if t.shape is not None else 1 for t in graph.tensors)
        # Too small an arena may end in a segmentation fault; untouched pages of too large a one cost nothing.
        self._arena = int(options.get("arena_bytes") or 2**20 + 10 * len(self._model) + 16 * elements)
        self._keep = bool(options.get("keep_tensors", False))
        self._interpreter = self._create(self._arena, self._keep)
        self.inputs = [
            self._describe(self._names[index], self._interpreter.get_input_details(i)) for i, index in enumerate(graph.inputs)
        ]
        self.outputs = [
            self._describe(self._names[index], self._interpreter.get_output_details(i)) for i, index in enumerate(graph.outputs)
        ]

    def _create(self, arena: int, keep: bool) -> Any:
        configs = self._runtime.InterpreterConfig
        return self._runtime.Interpreter.from_bytes(
            self._model,
            arena_size=arena,
            intrepreter_config=configs.kPreserveAllTensors if keep else configs.kAllocationRecording,
        )

    @staticmethod
    def _describe(name: str, details: Mapping[str, Any]) -> Info:
        return _info(name, details["shape"], np.dtype(details["dtype"]).name, details["quantization_parameters"])

    def feed(self, arrays: Arrays) -> None:
        for i, info in enumerate(self.inputs):
            self._interpreter.set_input(arrays[info["name"]], i)

    def invoke(self) -> None:
        self._interpreter.invoke()

    def fetch(self) -> Arrays:
        return {info["name"]: self._interpreter.get_output(i) for i, info in enumerate(self.outputs)}

    def tensors(self) -> tuple[Arrays, dict[str, Info]]:
        if not self._keep:
            raise ValueError("the session was not opened with keep_tensors")
        arrays, infos = {}, {}
        for index, stored in self._computed.items():
            name, found = self._names[index], self._interpreter.GetTensor(index, 0)
            arrays[name] = found["tensor_data"]
            encoded = stored is not None and stored.scale is not None
            quantization = {"scales": stored.scale, "zero_points": stored.zeroPoint} if encoded else None
            infos[name] = _info(name, found["shape"], np.dtype(found["dtype"]).name, quantization)
        return arrays, infos

    def report(self) -> Info:
        """Bytes of the arena: `arena_total` = `arena_head` (activations) + `arena_tail` (structures, 64-bit pointers).

        `arena_needed` is the least arena that loads and runs the artifact: more than the total, because kernels take
        temporary memory while they prepare.
        """
        recording = self._create(self._arena, keep=False)
        for i, info in enumerate(self.inputs):
            recording.set_input(np.zeros(info["shape"], info["dtype"]), i)
        recording.invoke()
        printed = _captured(recording.print_allocations)
        found = {part: int(size) for part, size in re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", printed)}
        if "total" not in found:
            raise ValueError("the arena's size is not in what the runtime printed: " + printed[-400:])
        report: Info = {"arena_" + part: size for part, size in found.items()}
        report["arena_needed"] = self._least_arena(found["total"])
        return report

    def _least_arena(self, used: int) -> int:
        """Bisect to 16 bytes. Each try is a forked child, because TFLM may crash in an arena that is too small."""
        low, step = used - 16, 1024
        while not self._works(low + step):
            low, step = low + step, step * 2
        high = low + step
        while high - low > 16:
            middle = (low + high) // 2
            if self._works(middle):
                high = middle
            else:
                low = middle
        return (high + 15) // 16 * 16

    def _works(self, arena: int) -> bool:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                silent = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silent, 2)
                interpreter = self._create(arena, keep=False)
                for i, info in enumerate(self.inputs):
                    interpreter.set_input(np.zeros(info["shape"], info["dtype"]), i)
                interpreter.invoke()
                status = 0
            finally:
                os._exit(status)
        return os.waitpid(child, 0)[1] == 0


def _captured(call: Callable[[], Any]) -> str:
    """What `call` writes to the file descriptors 1 and 2, C code included."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(1), os.dup(2)
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            call()
        finally:
            for descriptor, copy in enumerate(saved, start=1):
                os.dup2(copy, descriptor)
                os.close(copy)
        file.seek(0)
        return file.read().decode(errors="replace")


ADAPTERS: dict[str, Callable[[str, Info], Adapter]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "rknn": _beside("rknn_adapter"),
    "esp-dl": _beside("espdl_adapter"),
    "qnn-htp": QnnHtp,
    "litert": LiteRt,
    "tflite-runtime": TfliteRuntime,
    "tflite-micro": TfliteMicro,
}


# --- the loop ---------------------------------------------------------------------------------------------------------


def answer(adapter: Adapter, meta: Info, arrays: Arrays) -> tuple[Info, Arrays]:
    """What a loaded artifact answers to one request: (meta, arrays)."""
    request = meta["request"]
    if request == "describe":
        return {"inputs": adapter.inputs, "outputs": adapter.outputs}, {}
    if request == "run":
        return {}, adapter.run(arrays)
    if request == "tensors":
        found, infos = adapter.tensors()
        return {"tensors": infos}, found
    if request == "latency":
        return {"seconds": adapter.latency(arrays, int(meta["repeats"]))}, {}
    if request == "report":
        return {"report": adapter.report()}, {}
    raise ValueError("unknown request " + repr(request))


def main(argv: Sequence[str]) -> int:
    """Serve requests until stdin ends. Arguments: adapter, artifact, options as JSON."""
    options = json.loads(argv[2]) if len(argv) > 2 else {}
    # Runtimes print to file descriptor 1 and may read 0: the protocol keeps private copies, they get stderr and nothing.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    try:
        adapter = ADAPTERS[argv[0]](argv[1], options)
    except ImportError as error:
        send(answers, {"error": str(error), "kind": "missing"})
        return 1
    except Exception as error:
        send(answers, {"error": f"{type(error).__name__}: {error}", "kind": "refused"})
        return 1
    send(answers, {"inputs": adapter.inputs, "outputs": adapter.outputs})
    while True:
        message = receive(requests)
        if message is None:
            return 0
        try:
            meta, arrays = answer(adapter, *message)
        except Exception as error:
            meta, arrays = {"error": f"{type(error).__name__}: {error}", "kind": "refused"}, {}
        send(answers, meta, arrays)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

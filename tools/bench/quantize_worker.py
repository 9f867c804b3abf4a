"""One artifact in a process of its own: ``python quantize_worker.py FORM FOLDER OUT GOAL`` quantizes FOLDER/float.onnx into OUT.

FOLDER is that of a `tools.bench.workloads.Workload`; GOAL, a JSON list of gates and of the task metric that they may name, is what our
precision auto shall hold. It imports what it needs, converts, and prints one JSON object: the seconds of CPU (its own and its children's)
and wall from the model file to the artifact on disk, and its peak memory in MiB. It runs in a peer's environment, so it imports nothing of
edgewright unless the artifact is our own. Each peer is called as its own documentation shows.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path[0] = ROOT  # the modules beside this file must not shadow a peer's imports

from tools.bench.samples import fitted, read_samples  # noqa: E402

Quantize = Callable[[str, str], dict[str, Any] | None]  # folder, path of the artifact -> what else there is to say of it


def edgewright(how: str, target_name: str, gates: Sequence[str], metric: str | None) -> Quantize:
    """Ours: `how` is an effort, of int8, or a precision; weights of 4 bits are rounded with effort best; "integer-io": int8 with integers at
    its inputs and outputs.
    """
    from calibration import open_samples
    from exporter.frontends import load
    from exporter.graph.summary import summarize
    from exporter.pipeline import Options, build
    from exporter.quantization.mixing.aiming import Goal
    from targets.loader import load_target
    from targets.precision import choose_io, choose_precision

    efforts = ("fast", "balanced", "best")
    effort: Any = how if how in efforts else "best" if how == "int8x4" else "balanced"
    options = Options(effort=effort, goal=Goal.parse(gates, metric))
    target = choose_precision(load_target(target_name), "int8" if how in (*efforts, "integer-io") else how)
    if how == "integer-io":
        target = choose_io(target, "int8")

    def run(folder: str, out: str) -> dict[str, Any]:
        source = load(os.path.join(folder, "float.onnx"))
        samples = open_samples(lambda: read_samples(os.path.join(folder, "calibration")), source.inputs)
        built = build(source, target, samples if target.artifact.calibrated else None, options)
        with open(out, "wb") as file:
            file.write(built.artifact.content)
        macs: dict[str, int] = {}
        for facts in summarize(built.graph).nodes:
            precision = built.plan.precision.get(facts.name, "float32")
            macs[precision] = macs.get(precision, 0) + (facts.macs or 0)
        shares = {name: count / max(sum(macs.values()), 1) for name, count in sorted(macs.items())}
        return {"macs": shares, "aims": dict(built.plan.aims)}

    return run


def onnxruntime(method: str, limit: int | None = None, **options: Any) -> Quantize:
    """quantize_static behind quant_pre_process: QDQ, uint8 activations and int8 weights, a scale a channel."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    def run(folder: str, out: str) -> None:
        prepared = out + ".prepared.onnx"
        source = os.path.join(folder, "float.onnx")
        for skipped in (
            False,
            True,
        ):  # where its symbolic shapes do not know an operator, its documentation says to leave them out
            try:
                quant_pre_process(source, prepared, skip_symbolic_shape=skipped)
                break
            except Exception:
                if skipped:
                    raise
        samples = read_samples(os.path.join(folder, "calibration"), limit)

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> dict[str, Any] | None:
                return next(samples, None)

        quantization.quantize_static(
            prepared,
            out,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod[method],
            **options,
        )
        os.remove(prepared)

    return run


def nncf(*, transformer: bool = False) -> Quantize:
    """``nncf.quantize`` with its defaults on all samples; of transformers also with the model type that its documentation names."""
    import nncf as peer
    import onnx

    def run(folder: str, out: str) -> None:
        samples = list(read_samples(os.path.join(folder, "calibration")))
        kind = {"model_type": peer.ModelType.TRANSFORMER} if transformer else {}
        model = onnx.load(os.path.join(folder, "float.onnx"))
        onnx.save(peer.quantize(model, peer.Dataset(samples), subset_size=len(samples), **kind), out)

    return run


def ai_edge_quantizer() -> Quantize:
    """Its static recipe on the float .tflite that we write (channels last, as its other sources are)."""
    from ai_edge_litert import interpreter
    from ai_edge_quantizer import quantizer, recipe

    def run(folder: str, out: str) -> None:
        model = os.path.join(folder, "float.tflite")
        runner = interpreter.Interpreter(model_path=model).get_signature_runner()
        shapes = {name: detail["shape"] for name, detail in runner.get_input_details().items()}
        (signature,) = interpreter.Interpreter(model_path=model).get_signature_list()
        samples = list(_fed(os.path.join(folder, "calibration"), shapes))  # it walks them more than once
        peer = quantizer.Quantizer(model)
        peer.load_quantization_recipe(recipe.static_wi8_ai8())
        try:
            found = peer.calibrate({signature: samples}, num_threads=1)
        except ValueError:  # its default reads every tensor, one that a fused kernel leaves without data included
            profiled = inspect.signature(peer.calibrate).parameters["mode"].default.CALIBRATION_PROFILER_BASED
            found = peer.calibrate({signature: samples}, num_threads=1, mode=profiled)
        peer.quantize(found).export_model(out, overwrite=True)

    return run


def _fed(folder: str, shapes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Samples for inputs of these names and shapes, paired by name where all agree, else by position."""
    for sample in read_samples(folder):
        named = dict(sample) if set(sample) == set(shapes) else dict(zip(shapes, sample.values()))  # noqa: B905
        yield {name: fitted(named[name], [int(size) for size in shape]) for name, shape in shapes.items()}


def onnx2tf_direct() -> Quantize:
    """Its direct back-end, as ``onnx2tf -oiqt`` runs it: one scale a channel, which is its default; where it fails with that, one a tensor.

    It writes several files and checks each. What the last of them, with int16 activations, is refused for says nothing of the int8 one.
    """
    import numpy as np

    convert = _onnx2tf()

    def run(folder: str, out: str) -> dict[str, Any]:
        samples = list(read_samples(os.path.join(folder, "calibration")))
        with tempfile.TemporaryDirectory() as place:
            data = []
            for position, name in enumerate(samples[0]):
                stacked = np.concatenate([sample[name] for sample in samples])
                path = os.path.join(place, f"{position}.npy")
                np.save(path, np.moveaxis(stacked, 1, -1) if stacked.ndim >= 3 else stacked)
                data.append([name, path, [0.0], [1.0]])
            written = os.path.join(place, "float_integer_quant.tflite")
            for kind in ("per-channel", "per-tensor"):
                try:
                    convert(
                        input_onnx_file_path=shutil.copy(
                            os.path.join(folder, "float.onnx"), place
                        ),  # it writes over what it reads
                        output_folder_path=place,
                        tflite_backend="flatbuffer_direct",
                        output_integer_quantized_tflite=True,
                        quant_type=kind,
                        custom_input_op_name_np_data_path=data,
                        non_verbose=True,
                    )
                    break
                except (Exception, SystemExit) as error:
                    if kind == "per-channel":
                        problem = _line(error.__cause__ or error)
                        if os.path.exists(written):
                            os.remove(written)
                    elif not os.path.exists(written):
                        raise RuntimeError(problem) from error
            shutil.copy(written, out)
        return {"note": kind}

    return run


def tensorflow() -> Quantize:
    """TFLiteConverter's post-training quantization: of a Keras model itself, else of the SavedModel that onnx2tf's older back-end writes."""
    import tensorflow as tf

    convert = _onnx2tf()

    def run(folder: str, out: str) -> None:
        keras = os.path.join(folder, "keras.h5")
        with tempfile.TemporaryDirectory() as place:
            if os.path.exists(keras):
                tf.keras.models.load_model(keras, compile=False).export(place, verbose=False)
            else:
                convert(
                    input_onnx_file_path=shutil.copy(os.path.join(folder, "float.onnx"), place),
                    output_folder_path=place,
                    tflite_backend="tf_converter",
                    output_signaturedefs=True,
                    non_verbose=True,
                )
            wanted = tf.saved_model.load(place).signatures["serving_default"].structured_input_signature[1]
            shapes = {name: [-1 if size is None else size for size in spec.shape] for name, spec in wanted.items()}
            converter = tf.lite.TFLiteConverter.from_saved_model(place)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: _fed(os.path.join(folder, "calibration"), shapes)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
            content = converter.convert()
        with open(out, "wb") as file:
            file.write(content)

    return run


def litert_torch() -> Quantize:
    """Its PT2E way, static, with a scale a channel, from the module itself as torch.export traced it: it reads no ONNX."""
    import litert_torch as peer
    import torch
    from litert_torch.quantize import pt2e_quantizer
    from litert_torch.quantize.quant_config import QuantConfig
    from torchao.quantization.pt2e import quantize_pt2e

    def run(folder: str, out: str) -> None:
        traced = torch.export.load(os.path.join(folder, "module.pt2"))
        config = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
        quantizer = pt2e_quantizer.PT2EQuantizer().set_global(config)
        model = quantize_pt2e.prepare_pt2e(traced.module(), quantizer)
        with torch.no_grad():
            for sample in read_samples(os.path.join(folder, "calibration")):
                model(*(torch.from_numpy(array) for array in sample.values()))
        model = quantize_pt2e.convert_pt2e(model, fold_quantize=False)
        peer.convert(model, traced.example_inputs[0], quant_config=QuantConfig(pt2e_quantizer=quantizer)).export(out)

    return run


def _onnx2tf() -> Callable[..., Any]:
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]  # it calls the command onnxsim
    from onnx2tf.onnx2tf import convert

    return convert  # type: ignore[no-any-return]


_FEW = 32  # samples for the methods whose memory grows with them

PEERS: dict[str, Callable[[], Quantize]] = {
    "ort:minmax": lambda: onnxruntime("MinMax"),
    "ort:percentile": lambda: onnxruntime("Percentile", _FEW),
    "ort:entropy": lambda: onnxruntime("Entropy", _FEW),
    "ort:matmul": lambda: onnxruntime("MinMax", op_types_to_quantize=["MatMul", "Gemm"]),
    "nncf": nncf,
    "nncf:transformer": lambda: nncf(transformer=True),
    "ai-edge-quantizer": ai_edge_quantizer,
    "tensorflow": tensorflow,
    "onnx2tf": onnx2tf_direct,
    "litert-torch": litert_torch,
}
started: dict[str, float] = {}


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _peak_mib() -> float:
    """Of this process since it began (unlike ru_maxrss without what the process that started it held), or of its largest child."""
    with open("/proc/self/status", encoding="utf-8") as status:
        own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def main(form: str, folder: str, out: str, goal: str) -> int:
    """Exit status 1, and ``{"error": ...}``, where it fails."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        kind, _, rest = form.partition(":")
        quantize = edgewright(*rest.split(":"), *json.loads(goal)) if kind == "ours" else PEERS[form]()
        started.update(cpu=_cpu(), wall=time.perf_counter())
        more = quantize(folder, out)
        spent = {"cpu_s": _cpu() - started["cpu"], "wall_s": time.perf_counter() - started["wall"], "peak_mib": _peak_mib()}
        found: dict[str, Any] = {**spent, **(more or {})}
    except (Exception, SystemExit) as error:
        found = {"error": _line(error)}
    json.dump(found, answer)
    answer.flush()
    return int("error" in found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

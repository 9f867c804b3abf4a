"""ESP-PPQ: what its exporter writes of an artifact is the artifact, its executor computes the same, and whom a refusal names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from diagnostics import CompilerFailure, RuntimeFailure
from exporter.backends.onnx.writer import write_onnx
from exporter.compilers import Compiled, Task, how_to_get
from exporter.compilers.espdl import _log, compile_for_espdl
from exporter.compilers.registry import COMPILERS
from exporter.runtimes.environments import find_environment
from exporter.runtimes.registry import available
from exporter.runtimes.session import open_session
from targets import load_target
from targets.schema import Target
from tests.quantization.planned import network, planned, residual_net, run, samples

here = pytest.mark.skipif(not available("esp-dl-simulator").present, reason="edgewright runtimes add esp-ppq==1.3.12")
CHIPS = {"esp32-s3-espdl": "esp32s3", "esp32-p4": "esp32p4"}


def test_without_the_compiler_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path))
    table = load_target("esp32-p4").compile
    assert table is not None
    line = "not compiled: esp-ppq (esp-ppq) is not installed; get it: edgewright runtimes add esp-ppq==1.3.12"
    assert how_to_get(table) == line
    assert COMPILERS["esp-ppq"].package == "esp-ppq"


def test_the_log_has_neither_banner_nor_colours_nor_times() -> None:
    printed = (
        "\n   / ____/ ___// __ \\\n\x1b[38;5;2m[INFO][ESPDL][2026-11-22 17:33:21]:  \x1b[mSkip a\n"
        "\x1b[31m[ERROR][ESPDL][2026-11-22 17:33:22]:  \x1b[mSomething\n"
    )
    report = {"operators": {"Conv": 3}, "borders": ["input x: int8 [1, 4]"], "constants": 6, "exponents": 12}
    assert _log(printed.splitlines(), report) == (
        "[INFO][ESPDL]:  Skip a\n[ERROR][ESPDL]:  Something\ninput x: int8 [1, 4]\n3 x Conv\n"
        "6 constants and 12 exponents read back: those of the artifact, bit for bit\n"
    )


def compiled(artifact: Path, chip: str) -> Compiled:
    environment = find_environment("esp-ppq")
    assert environment is not None
    return compile_for_espdl(Task(artifact, chip, {}, artifact.parent, environment.python, 600), environment.pin.version)


def written(model: ir.Model, target: Target, folder: Path) -> tuple[Path, bytes]:
    content = write_onnx(model, planned(model, target), target)
    (folder / "model.onnx").write_bytes(content)
    return folder / "model.onnx", content


def many() -> ir.Model:
    """Convolutions of all layouts, and what has its own kernel or a table of its own."""
    return network(
        """
        a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1)
        b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1], group = 20> (b, w2, b2)
        d = HardSwish (c)
        p = GlobalAveragePool (d)
        s = Conv (p, w3, b3)
        t = Sigmoid (s)
        e = Mul (d, t)
        f = Conv (e, w3, b3)
        g = Add (f, b)
        h = LeakyRelu (g)
        i = Concat <axis = 1> (h, more)
        j = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (i)
        k = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (j)
        l = Transpose <perm = [0, 2, 3, 1]> (k)
        m = Reshape (l, rows)
        n = MatMul (m, w4)
        o = ReduceMean <keepdims = 0> (n, axes)
        q = Gemm <transB = 1> (o, w5, b5)
        y = Softmax <axis = 1> (q)
        """,
        inputs="float[1,3,16,16] x",
        outputs="float[1,5] y",
        w1=(20, 3, 3, 3),
        b1=(20,),
        w2=(20, 1, 3, 3),
        b2=(20,),
        w3=(20, 20, 1, 1),
        b3=(20,),
        more=(1, 4, 8, 8),
        rows=np.array([1, 4, 24]),
        w4=(24, 17),
        axes=np.array([1]),
        w5=(5, 17),
        b5=(5,),
    )


def one_output() -> ir.Model:
    """A weight of one channel, which has one scale in any case."""
    return network("y = Conv (x, w, b)", inputs="float[1,20,4,4] x", outputs="float[1,1,4,4] y", w=(1, 20, 1, 1), b=(1,))


@here
@pytest.mark.slow  # ESP-PPQ imports torch
@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("make", [residual_net, many, one_output])
def test_the_file_is_the_artifact_and_is_simulated_as_onnxruntime_computes_it(make, name: str, tmp_path: Path) -> None:
    """To the last bit where the chip rounds half to even, as onnxruntime does. Half up: a step here and there in each layer."""
    model, target, chip = make(), load_target(name), CHIPS[name]
    artifact, content = written(model, target, tmp_path)
    step = planned(model, target).encodings["q" if make is many else "y"].scale[0]
    with open_session("esp-dl-simulator", artifact, options={"target": chip}) as session:
        for sample in samples(model, 3, seed=2):
            found, wanted = session.run(sample)["y"], run(content, sample)["y"]
            if chip == "esp32p4":
                np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-7 if make is many else 0)
            else:
                assert np.abs(found - wanted).max() <= 2 * step
    made = compiled(artifact, chip)
    assert made.files["model.espdl"][:4] == b"EDL2"
    assert made.figures["flash_bytes"] == len(made.files["model.espdl"])
    constants = sum(2 * (node.op_type in ("Conv", "Gemm")) + (node.op_type in ("MatMul", "Concat")) for node in model.graph)
    assert made.figures["constants_compared"] == constants
    assert f"{constants} constants and " in made.log
    if make is not one_output:
        exponent = int(np.log2(planned(model, target).encodings["x"].scale[0]))
        written_output = "float [1, 5]" if make is many else f"int8 [1, 5], exponent {int(np.log2(step))}"
        assert f"input x: int8 [1, 16, 16, 3], exponent {exponent}\noutput y: {written_output}\n" in made.log
    assert str(tmp_path) not in made.log
    assert made.reproducible
    assert compiled(artifact, chip) == made


@here
@pytest.mark.slow
def test_what_a_chip_does_not_compute_is_refused_by_name(tmp_path: Path) -> None:
    artifact, content = written(residual_net(), load_target("esp32-s3-espdl"), tmp_path)
    model = onnx.load_from_string(content)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b4_quantized")
    bias.CopyFrom(numpy_helper.from_array(np.full(5, 2**19, np.int32), bias.name))
    artifact.write_bytes(model.SerializeToString())
    with pytest.raises(CompilerFailure) as caught:
        compiled(artifact, "esp32s3")
    assert caught.value.code == "EW-R007"
    assert "(Gemm): its bias does not fit the 20 bits of the accumulators of esp32s3" in caught.value.why
    with pytest.raises(RuntimeFailure) as refused:
        open_session("esp-dl-simulator", artifact)
    assert refused.value.code == "EW-R002"


@here
@pytest.mark.slow
@pytest.mark.parametrize("content", [b"no model", None])
def test_what_it_cannot_read_is_refused(content: bytes | None, tmp_path: Path) -> None:
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(
        content if content is not None else write_onnx(residual_net(), planned(residual_net()), load_target("x86-64-cpu"))
    )
    with pytest.raises(CompilerFailure) as caught:
        compiled(artifact, "esp32p4")
    assert caught.value.code == "EW-R007"

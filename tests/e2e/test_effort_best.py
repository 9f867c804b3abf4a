"""``--effort best`` from the command line: learned once, replayed without torch, and what it gains on a real network."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibration import open_samples
from exporter.cli.main import main
from exporter.pipeline import Options, build
from exporter.verification.prove import measure
from targets.loader import load_target
from tests.quantization.planned import network
from tools.zoo_cases import CASES

# Runs the command line where torch cannot be imported.
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from exporter.cli.main import main; sys.exit(main())"


@pytest.fixture
def files(tmp_path):
    model = network(
        """
        a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1)
        b = Relu (a)
        c = Conv (b, w2, b2)
        d = Relu (c)
        e = GlobalAveragePool (d)
        f = Flatten (e)
        y = Gemm <transB = 1> (f, w3, b3)
        """,
        inputs="float[1,3,16,16] x",
        outputs="float[1,10] y",
        w1=(16, 3, 3, 3),
        b1=(16,),
        w2=(32, 16, 1, 1),
        b2=(32,),
        w3=(10, 32),
        b3=(10,),
    )
    onnx.save(ir.serde.serialize_model(model), tmp_path / "net.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(20, 3, 16, 16)).astype(np.float32))
    return tmp_path


def without_torch(folder, *arguments):
    """Exit status and what was printed."""
    call = [sys.executable, "-c", WITHOUT_TORCH, "export", "net.onnx", *arguments, "--json"]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_learned_once_and_replayed_without_torch(files, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(files)
    base = ("--target", "android-arm64-cpu")
    chosen = ("--calib", "data.npy", "--precision", "int8x4", "--effort", "best", "--gate", "sqnr_db>=12", "--out", "learned")
    assert main(["export", "net.onnx", *base, *chosen, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["bundles"][0]
    code, out = without_torch(
        files, *base, "--test", "data.npy", "--plan", "learned/android-arm64-cpu/plan.json", "--out", "again"
    )
    assert code == 0, out
    second = json.loads(out)["bundles"][0]
    artifacts = [(files / entry["artifact"]).read_bytes() for entry in (first, second)]
    assert artifacts[0] == artifacts[1]


def test_without_torch_it_is_refused(files):
    code, out = without_torch(files, "--target", "x86-64-cpu", "--calib", "data.npy", "--out", "out", "--effort", "best")
    assert code == 2
    assert "EW-U005" in out
    assert "edgewright[torch]" in out


def held_out(source, name, target, options):
    """The comparison of an artifact with its original on data that nothing was learned from."""
    case = CASES[name]
    seen = open_samples(case.calibration, source.inputs, source.preprocess).take(case.samples)
    fresh = open_samples(case.held_out, source.inputs, source.preprocess).take(case.test_samples)
    built = build(source, target, seen, options)
    return built, fresh, case


@pytest.mark.slow
def test_a_real_network_keeps_its_answers(efficientnet_lite0, tmp_path):
    target = load_target("android-arm64-cpu")
    built, fresh, case = held_out(efficientnet_lite0, "efficientnet_lite0", target, Options(effort="best"))
    path = tmp_path / "model.tflite"
    path.write_bytes(built.artifact.content)
    evidence = measure(
        path,
        efficientnet_lite0.reference,
        fresh,
        runtimes=target.verification.runtimes[:1],
        outputs=[signature.name for signature in efficientnet_lite0.outputs],
        layouts=built.artifact.layouts,
        encodings=built.artifact.encodings,
        metric=case.metric,
    )
    assert evidence.deciding.worst("top1_agreement")[1] >= 0.94
    assert evidence.deciding.worst("sqnr_db")[1] >= 24.5

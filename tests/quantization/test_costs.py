"""What runs on plain loops in int8 is written out with operators that do not; in float, and where a runtime has no such loops, it stays."""

import numpy as np
import pytest

from exporter.frontends import load
from exporter.pipeline import legal
from exporter.quantization.costs import SKIPPED_NORMALIZATION, affordable, model_macs, slow_builtins
from targets.loader import load_target
from targets.precision import choose_precision
from tests.quantization.planned import network, residual_net


@pytest.mark.parametrize(("precision", "slow"), [("int8", {"HARD_SWISH"}), ("auto", {"HARD_SWISH"}), ("float32", set())])
def test_litert_runs_hard_swish_in_pieces(precision: str, slow: set[str], tmp_path):
    import onnx_ir as ir

    target = choose_precision(load_target("android-arm64-cpu"), precision)
    assert slow_builtins(target) == slow
    body = "a = Conv (x, w)  h = HardSwish (a)  y = Conv (h, w)"
    weight = np.random.default_rng(0).normal(size=(4, 4, 1, 1)).astype(np.float32)
    model = network(body, inputs="float[1,4,8,8] x", outputs="float[1,4,8,8] y", w=weight)
    ir.save(model, tmp_path / "model.onnx")
    graph = legal(load(tmp_path / "model.onnx").model, target)
    whole, pieces = ["Conv", "HardSwish", "Conv"], ["Conv", "Add", "Clip", "Mul", "Conv"]
    assert [node.op_type for node in graph.graph] == (pieces if slow else whole)


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_onnxruntime_has_plain_loops(precision: str):
    assert slow_builtins(choose_precision(load_target("x86-64-cpu"), precision)) == {"PRelu", SKIPPED_NORMALIZATION}


def test_a_runtime_without_a_table_has_no_slow_builtins():
    assert not slow_builtins(load_target("cortex-m7"))


@pytest.mark.parametrize("runs", [1, 7, 2**40])
def test_what_is_affordable_keeps_to_the_budget_and_uses_it(runs: int):
    model = residual_net()
    spent = {effort: affordable(model, runs, effort) * runs * model_macs(model) for effort in ("fast", "balanced")}
    assert spent["fast"] <= 2**32 < spent["fast"] + runs * model_macs(model)
    assert spent["balanced"] <= 2**35 < spent["balanced"] + runs * model_macs(model)


def test_what_computes_nothing_is_looked_at_without_bound():
    assert affordable(network("y = Relu (x)", inputs="float[1,4] x", outputs="float[1,4] y"), 4) > 2**30

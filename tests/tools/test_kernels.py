"""Kernel cases: each is a model of the operator that its time is listed under, and both tables list it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.frontends import load
from exporter.graph.values import activation_nodes
from exporter.pipeline import legal
from exporter.quantization.costs import kernel_of
from targets.cost import kernel_table
from targets.loader import load_target
from tools.kernel_cases import CASES, Case
from tools.kernels import UNWRITTEN, alone

ONNX = alone(load_target("x86-64-cpu"), "float32")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel}-{'-'.join(map(str, case.inputs[0]))}")
def test_a_case_is_a_model_with_one_node_of_its_kernel(case: Case, tmp_path: Path) -> None:
    graph = legal(load(case.write(tmp_path / "case.onnx")).model, ONNX).graph
    assert [kernel_of(node) for node, _ in activation_nodes(graph)].count(case.kernel) == 1
    assert case.kernel in kernel_table("onnxruntime").factors


def test_the_table_lists_no_kernel_that_no_case_measures() -> None:
    unwritten = {"litert": set(), "onnxruntime": {kernel for kernel, _, _ in UNWRITTEN}}
    for runtime, others in unwritten.items():
        assert set(kernel_table(runtime).factors) - {"Conversion"} - others <= {case.kernel for case in CASES}
        assert others <= set(kernel_table(runtime).factors)

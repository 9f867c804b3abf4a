"""The arena as told from the file, held to what tflite-micro's recording allocator measures; the order that makes it smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from calibration import open_samples
from diagnostics import TargetError
from exporter.backends.tflite.arena import forecast, forecast_program, planned
from exporter.backends.tflite.container import Container
from exporter.backends.tflite.kernel_memory import scratch
from exporter.backends.tflite.program import Operator, Program, Stored, program_of
from exporter.backends.tflite.schedule import least_memory
from exporter.built import Built
from exporter.frontends import load
from exporter.graph.artifacts import read_tflite
from exporter.pipeline import Options, build
from exporter.quantization.plan import Encoding
from exporter.runtimes import open_session
from targets import Target, load_target
from targets.arena import greedy, live
from targets.schema import Memory


def target(name: str = "cortex-m7", **memory: Any) -> Target:
    profile = load_target(name)
    return profile.model_copy(update={"memory": Memory(scratch=profile.memory.scratch, **memory)})


def built(model: Any, profile: Target, *shapes: tuple[int, ...]) -> Built:
    source = load(model, inputs=tuple(torch.zeros(shape) for shape in shapes)) if shapes else load(model)
    random = np.random.default_rng(0)
    samples = [{entry.name: random.standard_normal(entry.shape).astype(np.float32) for entry in source.inputs} for _ in range(2)]
    return build(source, profile, open_samples(samples, source.inputs, None), Options(refine=False, method="minmax"))


class Branches(nn.Module):
    """A wide branch and a narrow one, and much that runs in kernels of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.wide = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 32, 3, padding=1)
        self.narrow, self.join = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(40, 16, 1)
        self.up, self.classify = nn.ConvTranspose2d(16, 8, 2, 2), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.hardswish(self.stem(x))
        x = self.join(torch.cat([torch.sigmoid(self.wide(x)), functional.avg_pool2d(self.narrow(x), 3, 1, 1)], 1))
        x = functional.leaky_relu(self.up(functional.max_pool2d(x, 2)), 0.1)
        return self.classify(x.mean((2, 3))).softmax(-1)


class Attention(nn.Module):
    """Products of two activations, which kernels transpose and keep."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(24, 72)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.mix(x).chunk(3, -1)
        return (query @ key.transpose(1, 2) * 0.2).softmax(-1) @ value


class Recurrent(nn.Module):
    """Unrolled: many small operators, whose structures are most of the arena."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRU(8, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.cell(x)[0]
        return found[:, -1]


def digits() -> Any:
    from tools.zoo import digit_cnn

    return digit_cnn()["model"]


def person() -> Any:
    from tools.zoo_nets import person_detection

    return person_detection()[0]


CASES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "branches": (Branches, (1, 3, 32, 32)),
    "attention": (Attention, (1, 12, 24)),
    "digits": (digits, (1, 1, 28, 28)),
    "recurrent": (Recurrent, (1, 4, 8)),
    "person": (person, (1, 1, 96, 96)),
}


def measured(path: Path) -> dict[str, int]:
    with open_session("tflite-micro", path) as session:
        return session.report()


def told_as_measured(found: Built, path: Path) -> None:
    found.artifact.write(path)
    told, seen = forecast(read_tflite(path.read_bytes())), measured(path)
    assert told is not None
    assert told.head == seen["arena_head"]
    assert told.total == pytest.approx(seen["arena_total"], rel=0.05)


@pytest.mark.parametrize("case", CASES)
def test_head_and_total_are_what_tflite_micro_measures(case: str, tmp_path: Path) -> None:
    make, shape = CASES[case]
    told_as_measured(built(make().eval(), target(), shape), tmp_path / "model.tflite")


@pytest.mark.parametrize("op", ["RESHAPE", "CONV_2D"])
def test_what_an_operator_keeps_adds_up(op: str, tmp_path: Path) -> None:
    """Layers of one pixel and the reshapes around them are many in an unrolled network."""
    encoding, container, path = Encoding("int8", (0.1,), (0,)), Container(""), tmp_path / "model.tflite"
    channels = Encoding("int8", (0.01,) * 16, (0,) * 16, 0)
    weight = container.tensor("w", (16, 1, 1, 16), "int8", channels, np.ones((16, 1, 1, 16), np.int8))
    x = last = container.tensor("x", (1, 1, 1, 16), "int8", encoding)
    for place in range(24):
        shape = (1, 16) if op == "RESHAPE" and place % 2 else (1, 1, 1, 16)
        wanted = container.tensor("shape", (len(shape),), "int32", None, np.asarray(shape, np.int32))
        read = [last, wanted] if op == "RESHAPE" else [last, weight, -1]
        last = container.tensor("y", shape, "int8", encoding)
        window = {"padding": "VALID", "stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1}
        container.operator(op, read, [last], 3 if op == "CONV_2D" else 1, window if op == "CONV_2D" else {"new_shape": shape})
    path.write_bytes(bytes(container.content({"x": x}, {"y": last}, {})))
    told = forecast(read_tflite(path.read_bytes()))
    assert told is not None
    assert told.tail == pytest.approx(measured(path)["arena_tail"], abs=32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mtcnn_onet", "facemesh", "efficientnet_lite0", "yolox_char", "okay_nabu", "alexa"])
def test_so_it_is_of_real_models(name: str, tmp_path: Path) -> None:
    told_as_measured(built(f"tools.zoo:{name}", target()), tmp_path / "model.tflite")


def test_the_peak_is_named_with_its_tensors_and_scratch() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, 2)).eval()
    told = forecast_program(program_of(read_tflite(built(model, target(), (1, 3, 16, 16)).artifact.content)))
    assert told.operator.startswith("TRANSPOSE_CONV -> ")
    assert told.peak[0] == (f"scratch of {told.operator}", 4 * 8 * 32 * 32)  # 32 bits for every output
    assert [size for _, size in told.peak[1:]] == [8 * 32 * 32, 8 * 16 * 16]
    assert told.live == told.head


# --- the order --------------------------------------------------------------------------------------------------------


def tensor(name: str, size: int) -> Stored:
    return Stored(name, (size,), "int8")


def forked() -> Program:
    """Two long branches from one input: run in turns both keep something large, run one after the other they do not."""
    sizes = {"x": 16, "a": 640, "b": 640, "c": 16, "d": 16, "y": 16}
    index = {name: position for position, name in enumerate(sizes)}
    edges = [("x", "a"), ("x", "b"), ("a", "c"), ("b", "d")]
    operators = [Operator("RELU", (index[source],), (index[target],)) for source, target in edges]
    operators.append(Operator("ADD", (index["c"], index["d"]), (index["y"],)))
    return Program(tuple(tensor(*entry) for entry in sizes.items()), tuple(operators), (index["x"],), (index["y"],))


def test_branches_are_run_one_after_the_other_where_that_takes_less() -> None:
    program = forked()
    order = least_memory(program, "reference")
    assert order == (0, 2, 1, 3, 4)
    assert forecast_program(program).head == 1296
    assert forecast_program(program.reordered(order)).head == 672


def test_an_order_that_gains_nothing_stays() -> None:
    program = forked()
    order = least_memory(program, "reference")
    assert order is not None
    assert least_memory(program.reordered(order), "reference") is None


def test_operators_with_effects_keep_their_order() -> None:
    program = forked()
    first, *rest = program.operators
    assert (
        least_memory(dataclasses.replace(program, operators=(dataclasses.replace(first, op="CALL_ONCE"), *rest)), "reference")
        is None
    )


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Up to six operators, each reading one or two tensors that are there."""
    tensors, operators = [tensor("t0", draw(st.integers(1, 9)) * 16)], []
    for _ in range(draw(st.integers(1, 6))):
        reads = draw(st.lists(st.integers(0, len(tensors) - 1), min_size=1, max_size=2, unique=True))
        tensors.append(tensor(f"t{len(tensors)}", draw(st.integers(1, 9)) * 16))
        operators.append(Operator("ADD", tuple(reads), (len(tensors) - 1,)))
    unread = set(range(1, len(tensors))) - {index for operator in operators for index in operator.inputs}
    return Program(tuple(tensors), tuple(operators), (0,), tuple(sorted(unread)))


@given(programs())
@settings(max_examples=80, deadline=None)
def test_no_order_has_a_lower_peak_than_the_one_chosen(program: Program) -> None:
    def peak(order: tuple[int, ...]) -> int:
        return max(live(planned(program.reordered(order), "reference")))

    given_order = tuple(range(len(program.operators)))
    orders = [order for order in permutations(given_order) if valid(program, order)]
    chosen = least_memory(program, "reference")
    if chosen is None:
        lowest = min(orders, key=peak)
        assert peak(lowest) == peak(given_order) or arena(program, lowest) >= arena(program, given_order)
        return
    assert valid(program, chosen)
    assert peak(chosen) == min(map(peak, orders))
    assert arena(program, chosen) < arena(program, given_order)


def arena(program: Program, order: tuple[int, ...]) -> int:
    return greedy(planned(program.reordered(order), "reference")).bytes


def valid(program: Program, order: tuple[int, ...]) -> bool:
    there = set(program.inputs)
    for position in order:
        if not there.issuperset(program.operators[position].inputs):
            return False
        there.update(program.operators[position].outputs)
    return True


def test_a_reordered_artifact_computes_the_same_bits_and_takes_what_was_told(tmp_path: Path) -> None:
    class Turns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.down = (
                nn.ModuleList(nn.Conv2d(4, 24, 1) for _ in range(3)),
                nn.ModuleList(nn.Conv2d(24, 2, 1) for _ in range(3)),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wide = [up(x) for up in self.up]
            return torch.cat([down(entry) for down, entry in zip(self.down, wide, strict=True)], 1)

    one, other = built(Turns().eval(), target(), (1, 4, 16, 16)), built(Turns().eval(), target("ethos-u55-128"), (1, 4, 16, 16))
    ordered, plain = (tmp_path / "ordered.tflite", tmp_path / "plain.tflite")
    one.artifact.write(ordered)
    other.artifact.write(plain)  # Vela orders for itself: this one has the graph's order
    heads = [measured(path)["arena_head"] for path in (ordered, plain)]
    assert heads[0] < heads[1]
    assert [entry.op for entry in one.artifact.emitted] == [node.op_type for node in read_tflite(ordered.read_bytes()).nodes]
    sample = {"x": np.random.default_rng(1).integers(-128, 128, (1, 16, 16, 4), dtype=np.int8)}
    outputs = []
    for runtime, path in (("tflite-micro", ordered), ("litert-ref", ordered), ("litert-ref", plain)):
        with open_session(runtime, path) as session:
            (info,) = session.inputs
            outputs.append(next(iter(session.run({info.name: sample["x"]}).values())))
    assert all(np.array_equal(outputs[0], found) for found in outputs)


# --- kernels of the device --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "inputs", "output", "dsp", "mve"),
    [
        # two columns of 3*3*5 = 45 elements, rounded up to 48 of 16 bits; four of 48 of 8 bits
        ("CONV_2D", ((1, 9, 9, 5), (7, 3, 3, 5)), (1, 9, 9, 7), (192,), (192,)),
        ("CONV_2D", ((1, 9, 9, 6), (7, 1, 1, 6)), (1, 9, 9, 7), (24,), ()),
        ("DEPTHWISE_CONV_2D", ((1, 9, 9, 6), (1, 3, 3, 6)), (1, 9, 9, 6), (), (4 * 124 * 9,)),
        ("DEPTHWISE_CONV_2D", ((1, 9, 9, 6), (1, 5, 5, 6)), (1, 9, 9, 6), (2 * 6 * 25,), (4 * 124 * 25,)),
        ("DEPTHWISE_CONV_2D", ((1, 9, 9, 6), (1, 5, 5, 12)), (1, 9, 9, 12), (), ()),
        ("AVERAGE_POOL_2D", ((1, 9, 9, 6),), (1, 3, 3, 6), (24,), ()),
        ("RELU", ((1, 9, 9, 6),), (1, 9, 9, 6), (), ()),
    ],
)
def test_scratch_of_cmsis_nn(op: str, inputs: Any, output: tuple[int, ...], dsp: Any, mve: Any) -> None:
    tensors = tuple(Stored(str(index), shape, "int8", index == 1) for index, shape in enumerate((*inputs, output)))
    operator = Operator(op, tuple(range(len(inputs))), (len(inputs),))
    program = Program(tensors, (operator,), (0,), operator.outputs)
    assert scratch(program, operator, "cmsis-nn-dsp") == dsp
    assert scratch(program, operator, "cmsis-nn-mve") == mve
    assert scratch(program, operator, "reference") == ()


# --- the budget -------------------------------------------------------------------------------------------------------


def test_what_cannot_fit_is_refused_before_anything_runs_with_what_fills_the_arena() -> None:
    with pytest.raises(TargetError) as caught:  # 75 KiB of activations, 30 KiB of structures
        built(person(), target(sram=80_000), (1, 1, 96, 96))
    error = caught.value
    assert error.code == "EW-T003"
    assert "bytes (78.1 KiB)" in error.what
    assert "the arena is full at PAD -> " in error.why
    assert "36,864 bytes" in error.why  # 48 x 48 x 16: the widest value

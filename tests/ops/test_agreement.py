"""Where tflite-micro's kernels and LiteRT's reference kernels are said to agree they do, for every integer; tables are the kernel's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.ops.agreement import fixed_point_table, same_products, same_scaling, same_table
from exporter.quantization.plan import Encoding
from exporter.runtimes import available, open_session
from tests.runtimes.tiny_models import TfliteBuilder

needs_micro = pytest.mark.skipif(not available("tflite-micro").present, reason="needs tflite-micro")

TABLES = {"LOGISTIC": ("logistic", Encoding("int8", (1 / 256,), (-128,))), "TANH": ("tanh", Encoding("int8", (1 / 128,), (0,)))}
EVERY = {bits: np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).astype(f"int{bits}") for bits in (8, 16)}
COUNT = 40


def drawn(random: np.random.Generator, bits: int, low: float, high: float) -> Encoding:
    zero_point = int(random.integers(-128, 128)) if bits == 8 else 0
    return Encoding(f"int{bits}", (float(np.float32(10 ** random.uniform(low, high))),), (zero_point,))


Case = tuple[Sequence[Encoding], Encoding]


def outputs(
    op: str, cases: Sequence[Case], arrays: Sequence[np.ndarray[Any, Any]], path: Path, kind: str = "", **options: Sequence[Any]
) -> dict[str, list[np.ndarray[Any, Any]]]:
    """What each runtime gives for operators of one kind, all in one file, that read the same integers in encodings of their own."""
    tiny = TfliteBuilder()
    inputs, results = [], []
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    for index, (read, to) in enumerate(cases):

        def tensor(name: str, shape: Sequence[int], encoding: Encoding, index: int = index) -> int:
            return tiny.tensor(f"{name}{index}", shape, encoding.dtype, encoding.scale, encoding.zero_point)

        given = [tensor("ab"[at], arrays[at].shape, encoding) for at, encoding in enumerate(read)]
        results.append(tensor("y", shape, to))
        tiny.operator(op, given, results[-1:], kind, **{name: values[index] for name, values in options.items()})
        inputs += given
    tiny.save(path, inputs, results)
    feed = {f"{'ab'[at]}{index}": array for index in range(len(cases)) for at, array in enumerate(arrays)}
    found = {}
    for runtime in ("tflite-micro", "litert-ref"):
        with open_session(runtime, path, isolate=False) as session:
            given_back = session.run(feed)
            found[runtime] = [given_back[f"y{index}"].astype(np.int64) for index in range(len(cases))]
    return found


def differing(found: dict[str, list[np.ndarray[Any, Any]]]) -> list[bool]:
    return [not np.array_equal(*pair) for pair in zip(*found.values(), strict=True)]


@needs_micro
@pytest.mark.parametrize("op", TABLES)
@pytest.mark.parametrize(("low", "high"), [(-4, -1), (-2, 1), (-8, -4)])
def test_a_table_is_the_kernels_own_and_the_same_where_it_is_said_to_be(op: str, low: float, high: float, tmp_path: Path) -> None:
    function, to = TABLES[op]
    random = np.random.default_rng(COUNT)
    cases = [((drawn(random, 8, low, high),), to) for _ in range(COUNT)]
    found = outputs(op, cases, [EVERY[8][None]], tmp_path / "tables.tflite")
    for (x,), micro in zip((read for read, _ in cases), found["tflite-micro"], strict=True):
        np.testing.assert_array_equal(fixed_point_table(function, x), micro.ravel())
    said = [same_table(function, x) for (x,), _ in cases]
    assert [differs for differs, same in zip(differing(found), said, strict=True) if same and differs] == []
    assert high > 0 or sum(said) >= COUNT - 4


def test_a_tie_is_none_a_few_units_in_the_last_place_away() -> None:
    tie = np.float32(0.0211735013872)
    assert not same_table("logistic", Encoding("int8", (float(tie),), (-3,)))
    assert same_table("logistic", Encoding("int8", (float(tie * np.float32(1 - 1e-5)),), (-3,)))


@needs_micro
@pytest.mark.parametrize(("op", "least"), [("LOGISTIC", 2.0**-6), ("TANH", 2.0**-7)])
def test_tables_of_powers_of_two_are_the_same_from_a_step_on(op: str, least: float, tmp_path: Path) -> None:
    """Near 0 both functions are as good as straight: with finer steps, and behind a table of the other kind, values lie at ties."""
    function, to = TABLES[op]
    cases = [((Encoding("int8", (2.0**exponent,), (zero,)),), to) for exponent in range(-14, 1) for zero in (-128, -5, 0, 127)]
    found = outputs(op, cases, [EVERY[8][None]], tmp_path / "tables.tflite")
    said = [same_table(function, x) for (x,), _ in cases]
    assert differing(found) == [not same for same in said] == [x.scale[0] < least for (x,), _ in cases]


@needs_micro
@pytest.mark.parametrize(("factor", "zero"), [(8.5, -128), (2.02, 87), (5.5, -65)])
def test_wide_steps_saturate_too_early_in_fixed_point(factor: float, zero: int, tmp_path: Path) -> None:
    x = Encoding("int8", (float(np.float32(factor)),), (zero,))
    found = outputs("LOGISTIC", [((x,), TABLES["LOGISTIC"][1])], [EVERY[8][None]], tmp_path / "wide.tflite")
    assert differing(found) == [not same_table("logistic", x)] == [True]


def test_scales_that_are_too_small_for_fixed_point_are_told() -> None:
    x = Encoding("int8", (2.0**-40,), (0,))
    with pytest.raises(ValueError, match="too small"):
        fixed_point_table("tanh", x)
    assert not same_table("tanh", x)
    assert same_table("tanh", Encoding("int16", (2.0**-40,), (0,)))


Said = Callable[[Sequence[Encoding], Encoding, float], bool]
FACTORS: dict[str, tuple[int, str, Said]] = {
    "MUL": (2, "MulOptions", lambda read, to, _: same_products(read[0], read[1], to)),
    "LEAKY_RELU": (1, "LeakyReluOptions", lambda read, to, alpha: same_scaling(read[0], to, 1.0, alpha)),
    "PRELU": (2, "", lambda read, to, _: same_scaling(read[0], to, 1.0) and same_products(read[0], read[1], to)),
    "RELU": (1, "", lambda read, to, _: same_scaling(read[0], to, 1.0)),
}


@needs_micro
@pytest.mark.parametrize(
    ("op", "bits"), [("MUL", 8), ("MUL", 16), ("LEAKY_RELU", 8), ("LEAKY_RELU", 16), ("PRELU", 8), ("RELU", 8)]
)
def test_factors_are_the_same_where_they_are_said_to_be(op: str, bits: int, tmp_path: Path) -> None:
    count, kind, says = FACTORS[op]
    random = np.random.default_rng(COUNT + bits)
    cases, alphas = [], []
    for _ in range(COUNT):
        read = [drawn(random, bits, -3, -1) for _ in range(count)]
        size = np.prod([encoding.scale[0] for encoding in read]) * (100 if count == 2 else 1)
        to = Encoding(f"int{bits}", (float(np.float32(size * random.uniform(0.5, 2))),), drawn(random, bits, 0, 0).zero_point)
        cases.append((read, to))
        alphas.append(float(np.float32(random.uniform(-0.5, 1.5))))
    if count == 1:
        arrays = [EVERY[bits][None]]
    elif bits == 8:
        arrays = [EVERY[8][:, None], EVERY[8][None]] if op == "MUL" else [np.repeat(EVERY[8][:, None], 256, 1), EVERY[8][None]]
    else:
        arrays = [random.permutation(EVERY[16])[None], random.permutation(EVERY[16])[None]]
    options = {"alpha": alphas} if op == "LEAKY_RELU" else {"fusedActivationFunction": [0] * COUNT} if op == "MUL" else {}
    found = outputs(op, cases, arrays, tmp_path / "factors.tflite", kind, **options)
    said = [says(read, to, alpha) for (read, to), alpha in zip(cases, alphas, strict=True)]
    assert [differs for differs, same in zip(differing(found), said, strict=True) if same and differs] == []
    if bits == 8:  # every pair was read, so that what is said not to agree does not
        assert differing(found) == [not same for same in said]
        assert sum(said) > COUNT / 2

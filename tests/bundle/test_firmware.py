"""The firmware kit compiles without a warning as C11 and C++17, holds the model's own bytes, and its self-test tells right from wrong."""

import re
import shutil
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.backends.tflite.container import Container
from exporter.bundle.firmware import (
    GoldenSample,
    _c_float,
    _c_integer,
    arena_with_reserve,
    c_identifier,
    firmware_kit,
    resolver_method,
)
from exporter.bundle.manifest import TensorRecord

HOSTILE = '9 evil */ int main(void){} /* "\\\n??/ é'
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
C, CPP = ["gcc", "-std=c11"], ["g++", "-std=c++17"]

needs_gcc = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("g++")), reason="gcc and g++ are not installed (Debian: apt-get install g++)"
)

# What the kit's C++ uses of TensorFlow Lite Micro, declared only.
STUBS = {
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
#pragma once
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
namespace tflite { template <unsigned int N> struct MicroMutableOpResolver { TfLiteStatus AddAdd(); TfLiteStatus AddConv2D(); }; }
""",
    "tensorflow/lite/micro/micro_interpreter.h": """
#pragma once
#include <cstddef>
#include <cstdint>
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
struct TfLiteTensor { union { void* raw; } data; };
namespace tflite {
struct Model;
struct MicroInterpreter {
  template <typename R> MicroInterpreter(const Model*, const R&, uint8_t*, size_t) {}
  TfLiteStatus AllocateTensors(); TfLiteStatus Invoke(); TfLiteTensor* input(size_t); TfLiteTensor* output(size_t);
};
}
""",
    "tensorflow/lite/schema/schema_generated.h": "#pragma once\nnamespace tflite { struct Model; const Model* GetModel(const void*); }\n",
}

REPLAY = """
#include <stdio.h>
#include <string.h>
#include "%(id)s_golden.h"
#include "%(id)s_selftest.h"

static int replay(const void* const inputs[], void* const outputs[], void* context) {
  for (int s = 0; s < %(ID)s_GOLDEN_COUNT; ++s) {
    if (memcmp(inputs[0], %(id)s_golden_input0[s], %(ID)s_INPUT0_BYTES) != 0) continue;
    memcpy(outputs[0], %(id)s_golden_output0[s], %(ID)s_OUTPUT0_BYTES);
    memcpy(outputs[1], %(id)s_golden_output1[s], %(ID)s_OUTPUT1_BYTES);
    if (s == 1) ((%(id)s_output0_t*)outputs[0])[2] = (%(id)s_output0_t)(((%(id)s_output0_t*)outputs[0])[2] + *(int*)context);
    return 0;
  }
  return 1;
}
static int broken(const void* const inputs[], void* const outputs[], void* context) {
  (void)inputs; (void)outputs; (void)context;
  return 1;
}
int main(void) {
  int change[] = {0, 1, 2};
  printf("%%ld %%ld %%ld %%ld %%ld ", %(id)s_selftest(replay, &change[0], 0), %(id)s_selftest(replay, &change[1], 0),
         %(id)s_selftest(replay, &change[1], 1), %(id)s_selftest(replay, &change[2], 1), %(id)s_selftest(broken, 0, 0));
  printf("%%d %%d\\n", (int)((size_t)%(id)s_model %% 16), %(ID)s_INPUT0_ELEMENTS);
  return fwrite(%(id)s_model, 1, %(ID)s_MODEL_BYTES, stderr) != %(ID)s_MODEL_BYTES;
}
"""


def adder():
    """y = x + 1, int8: a real TFLite model of a few hundred bytes."""
    container = Container("test")
    x = container.tensor("x", [1, 2, 3], "int8")
    one = container.tensor("one", [1], "int8", None, np.int8([1]))
    y = container.tensor("y", [1, 2, 3], "int8")
    container.operator("ADD", [x, one], [y], 1, {"fused_activation_function": "NONE"})
    return container.finish({"x": x}, {"y": y}, {})


@pytest.fixture(params=["digit net", HOSTILE], ids=["plain", "hostile"])
def kit(request, tmp_path):
    """(identifier, files by name, the model's bytes), the files lying in `tmp_path`."""
    name, model = request.param, adder()
    rng = np.random.default_rng(0)
    golden = [
        GoldenSample(
            {name: rng.integers(-128, 128, (1, 2, 3)).astype(np.int8)},
            {
                "y": np.int8([[[-128, 127, 0], [5, 6, 7]]]),
                f"{name}_f": np.float32([0.1, -1e-30, np.inf, 16777217 + index]),
            },
        )
        for index in range(3)
    ]
    files = firmware_kit(
        name,
        model,
        [TensorRecord(name, (1, 2, 3), "int8", 1 / 255, -128, "channels_last")],
        [TensorRecord("y", (1, 2, 3), "int8", 0.1, 3), TensorRecord(f"{name}_f", (4,), "float32")],
        arena=10_000,
        arena_from="measured somewhere",
        golden=golden,
        target="cortex-m7",
    )
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    return c_identifier(name), files, model


@needs_gcc
@pytest.mark.parametrize("compiler", [C, CPP], ids=["C11", "C++17"])
def test_the_kit_compiles_and_its_selftest_tells_right_from_wrong(kit, tmp_path, compiler):
    prefix, _, model = kit
    folder = tmp_path / "firmware"
    (folder / "main.c").write_text(REPLAY % {"id": prefix, "ID": prefix.upper()})
    sources = sorted(str(path) for path in folder.glob("*.c"))
    language = ["-x", "c++"] if compiler is CPP else []
    subprocess.run([*compiler, *WARNINGS, *language, *sources, "-o", str(folder / "run")], check=True, timeout=120)
    done = subprocess.run([folder / "run"], capture_output=True, timeout=60)
    # equal; one element off by one (not tolerated, tolerated); off by two; an inference that fails; alignment; elements
    assert done.stdout.split() == [b"0", b"1", b"0", b"1", b"-1", b"0", b"6"]
    assert done.stderr == model


@needs_gcc
def test_the_tflm_part_compiles_against_its_interface(kit, tmp_path):
    prefix, _, _ = kit
    for path, content in STUBS.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    source = tmp_path / "firmware" / f"{prefix}_tflm.cc"
    subprocess.run([*CPP, *WARNINGS, f"-I{tmp_path}", "-fsyntax-only", str(source)], check=True, timeout=120)


def test_the_resolver_holds_exactly_the_operators_of_the_model(kit):
    prefix, files, _ = kit
    text = files[f"firmware/{prefix}_ops.h"].decode()
    assert re.findall(r"resolver\.(\w+)\(\)", text) == ["AddAdd"]
    assert f"#define {prefix.upper()}_OPERATOR_COUNT 1" in files[f"firmware/{prefix}_model.h"].decode()


def test_the_header_says_what_an_integrator_needs(kit):
    prefix, files, model = kit
    text = files[f"firmware/{prefix}_model.h"].decode()
    upper = prefix.upper()
    for line in (
        f"#define {upper}_MODEL_BYTES {len(model)}",
        f"#define {upper}_ARENA_NEEDED_BYTES 10000",
        f"#define {upper}_ARENA_BYTES 11264",
        f"#define {upper}_INPUT0_SHAPE {{1, 2, 3}}",
        f"#define {upper}_INPUT0_SCALE 0.00392156863f",
        f"#define {upper}_INPUT0_ZERO_POINT (-128)",
        f"typedef float {prefix}_output1_t;",
    ):
        assert line in text
    assert f"{upper}_OUTPUT1_SCALE" not in text


def test_what_a_compiler_made_is_said_and_registered():
    assert resolver_method("CUSTOM:ethos-u") == "AddEthosU"
    records = [TensorRecord("x", (1, 2, 3), "int8")]
    files = firmware_kit("m", adder(), records, records, arena=1, arena_from="told", golden=[], compiled_by="vela 5 for an NPU")
    assert "compiled by vela 5 for an NPU" in files["firmware/README.txt"].decode()
    assert "1 told, the rest is reserve" in files["firmware/README.txt"].decode()


def test_the_same_facts_give_the_same_bytes(kit):
    assert all(content.isascii() for content in kit[1].values())


def test_a_golden_array_that_does_not_fit_is_refused():
    sample = GoldenSample({"x": np.zeros((1, 2, 3), np.int16)}, {})
    with pytest.raises(ValueError, match=r"int16 \(1, 2, 3\)"):
        firmware_kit("m", adder(), [TensorRecord("x", (1, 2, 3), "int8")], [], arena=1, arena_from="", golden=[sample])


@given(st.text())
def test_identifiers_are_valid_and_not_reserved(name):
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", c_identifier(name))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float_literals_read_back_to_the_same_bits(value):
    text = _c_float(value)
    assert re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?f", text)
    assert struct.pack("f", float(text[:-1])) == struct.pack("f", value)


def test_integer_literals_at_the_edges():
    assert [_c_integer(v) for v in (-128, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), True)] == [
        "-128", "2147483647", "(-2147483647LL - 1)", "9223372036854775807LL", "(-9223372036854775807LL - 1)", "1",
    ]  # fmt: skip


@given(st.integers(0, 2**31))
def test_the_arena_has_at_least_its_documented_reserve(measured):
    arena = arena_with_reserve(measured)
    assert arena % 1024 == 0
    assert max(measured // 16, 1024) <= arena - measured < max(measured // 16, 1024) + 1024


@pytest.mark.parametrize(
    ("operator", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("AVERAGE_POOL_2D", "AddAveragePool2D"),
        ("FULLY_CONNECTED", "AddFullyConnected"),
        ("RELU6", "AddRelu6"),
        ("L2_NORMALIZATION", "AddL2Normalization"),
        ("SPACE_TO_BATCH_ND", "AddSpaceToBatchNd"),
        ("SPLIT_V", "AddSplitV"),
        ("PADV2", "AddPadV2"),
        ("CUMSUM", "AddCumSum"),
        ("BATCH_MATMUL", "AddBatchMatMul"),
    ],
)
def test_spelling_of_the_resolvers_methods(operator, method):
    """As declared in tensorflow/lite/micro/micro_mutable_op_resolver.h."""
    assert resolver_method(operator) == method

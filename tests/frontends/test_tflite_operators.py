"""Every reader beside LiteRT: files of one operator, alone and behind one that is channels-first."""

import numpy as np
import pytest
from tflite_bench import both, read, sample_of, single

from diagnostics import EdgewrightError
from exporter.frontends.tflite.registry import readers, reads

RANDOM = np.random.default_rng(7)
SAME, VALID = 0, 1
RELU, RELU_N1, RELU6, TANH = 1, 2, 3, 4


def f32(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def i32(*values):
    return np.asarray(values, np.int32)


X = (1, 6, 5, 4)
INT, BOOL = "int32", "bool"
UNARY = (
    *("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LOGISTIC", "NEG", "RELU"),
    *("RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "ROUND", "SIGN", "SIN", "SQUARE", "TANH"),
)
POSITIVE = ["LOG", "RSQRT", "SQRT"]
COMPARISONS = ["EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL"]
REDUCERS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
CONV = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
POOL = {"filterHeight": 3, "filterWidth": 2, "strideH": 2, "strideW": 2}

# (operator, inputs, outputs, options table, options)
CASES = [
    (
        "CONV_2D",
        [X, f32(3, 3, 3, 4), f32(3)],
        [(1, 6, 5, 3)],
        "Conv2D",
        {**CONV, "padding": SAME, "fusedActivationFunction": RELU6},
    ),
    ("CONV_2D", [X, f32(3, 3, 2, 4), f32(3)], [(1, 3, 3, 3)], "Conv2D", {**CONV, "padding": SAME, "strideH": 2, "strideW": 2}),
    ("CONV_2D", [X, f32(3, 3, 2, 4), f32(3)], [(1, 2, 4, 3)], "Conv2D", {**CONV, "padding": VALID, "dilationHFactor": 2}),
    ("CONV_2D", [X, f32(6, 1, 1, 2), f32(6)], [(1, 6, 5, 6)], "Conv2D", {**CONV, "version": 6}),
    ("CONV_2D", [X, (3, 1, 1, 4), f32(3)], [(1, 6, 5, 3)], "Conv2D", CONV),
    ("DEPTHWISE_CONV_2D", [X, f32(1, 3, 3, 8), f32(8)], [(1, 6, 5, 8)], "DepthwiseConv2D", {**CONV, "depthMultiplier": 2}),
    (
        "DEPTHWISE_CONV_2D",
        [X, f32(1, 3, 3, 4), f32(4)],
        [(1, 3, 3, 4)],
        "DepthwiseConv2D",
        {**CONV, "depthMultiplier": 1, "strideH": 2, "strideW": 2, "fusedActivationFunction": RELU_N1},
    ),
    ("TRANSPOSE_CONV", [i32(1, 12, 10, 3), f32(3, 3, 3, 4), X], [(1, 12, 10, 3)], "TransposeConv", {"strideH": 2, "strideW": 2}),
    (
        "TRANSPOSE_CONV",
        [i32(1, 13, 11, 3), f32(3, 3, 3, 4), X, f32(3)],
        [(1, 13, 11, 3)],
        "TransposeConv",
        {"strideH": 2, "strideW": 2, "padding": VALID, "version": 3},
    ),
    (
        "CONV_3D",
        [(1, 4, 5, 6, 2), f32(3, 2, 2, 2, 3), f32(3)],
        [(1, 4, 5, 6, 3)],
        "Conv3D",
        {"strideD": 1, "strideH": 1, "strideW": 1},
    ),
    (
        "CONV_3D_TRANSPOSE",
        [i32(1, 8, 10, 12, 3), f32(3, 2, 2, 3, 2), (1, 4, 5, 6, 2), f32(3)],
        [(1, 8, 10, 12, 3)],
        "Conv3D",
        {"strideD": 2, "strideH": 2, "strideW": 2},
    ),
    ("DYNAMIC_UPDATE_SLICE", [X, (1, 1, 5, 4), ((4,), INT)], [X], "", {}),
    ("DYNAMIC_UPDATE_SLICE", [X, (1, 6, 5, 1), i32(0, 2, 0, 3)], [X], "", {}),
    ("DYNAMIC_UPDATE_SLICE", [X, X, ((4,), INT)], [X], "", {}),
    ("FULLY_CONNECTED", [(3, 4), f32(5, 4), f32(5)], [(3, 5)], "FullyConnected", {"fusedActivationFunction": RELU}),
    ("FULLY_CONNECTED", [(2, 3, 4), f32(5, 4), None], [(2, 3, 5)], "FullyConnected", {"keepNumDims": True, "version": 6}),
    ("FULLY_CONNECTED", [(2, 3, 4), f32(5, 12), f32(5)], [(2, 5)], "FullyConnected", {}),
    ("BATCH_MATMUL", [(2, 3, 4), (2, 4, 5)], [(2, 3, 5)], "BatchMatMul", {}),
    ("BATCH_MATMUL", [(2, 4, 3), (2, 5, 4)], [(2, 3, 5)], "BatchMatMul", {"adjX": True, "adjY": True}),
    ("EMBEDDING_LOOKUP", [i32(2, 0, 2), (4, 3)], [(3, 3)], "", {}),
    ("AVERAGE_POOL_2D", [X], [(1, 3, 3, 4)], "Pool2D", {**POOL, "padding": SAME}),
    ("AVERAGE_POOL_2D", [X], [(1, 2, 2, 4)], "Pool2D", {**POOL, "padding": VALID, "fusedActivationFunction": RELU}),
    ("MAX_POOL_2D", [X], [(1, 3, 3, 4)], "Pool2D", {**POOL, "padding": SAME}),
    ("L2_POOL_2D", [X], [(1, 3, 3, 4)], "Pool2D", {**POOL, "padding": SAME}),
    ("DEPTH_TO_SPACE", [(1, 2, 3, 8)], [(1, 4, 6, 2)], "DepthToSpace", {"blockSize": 2}),
    ("SPACE_TO_DEPTH", [(1, 4, 6, 2)], [(1, 2, 3, 8)], "SpaceToDepth", {"blockSize": 2}),
    *(
        ("RESIZE_BILINEAR", [X, i32(9, 7)], [(1, 9, 7, 4)], "ResizeBilinear", how)
        for how in ({}, {"halfPixelCenters": True, "version": 3})
    ),
    ("RESIZE_BILINEAR", [X, i32(3, 9)], [(1, 3, 9, 4)], "ResizeBilinear", {"alignCorners": True}),
    *(
        ("RESIZE_NEAREST_NEIGHBOR", [X, i32(*size)], [(1, *size, 4)], "ResizeNearestNeighbor", how)
        for how in ({}, {"halfPixelCenters": True, "version": 3}, {"alignCorners": True})
        for size in ((9, 7), (3, 2))
    ),
    *((kind, [X], [X], "", {}) for kind in UNARY),
    *((kind, [((3, 4), INT)], [((3, 4), INT)], "", {}) for kind in ("ZEROS_LIKE",)),
    ("LOGICAL_NOT", [((3, 4), BOOL)], [((3, 4), BOOL)], "", {}),
    ("LEAKY_RELU", [X], [X], "LeakyRelu", {"alpha": 0.1}),
    *(("GELU", [X], [X], "Gelu", {"approximate": tanh}) for tanh in (False, True)),
    ("PRELU", [X, f32(1, 1, 4)], [X], "", {}),
    ("PRELU", [X, f32(6, 5, 4)], [X], "", {}),
    *((kind, [X, X], [X], "", {}) for kind in ("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "FLOOR_MOD", "FLOOR_DIV", "ATAN2")),
    *(
        (kind, [X, f32(4)], [X], table, {"fusedActivationFunction": RELU})
        for kind, table in (("ADD", "Add"), ("MUL", "Mul"), ("SUB", "Sub"))
    ),
    ("DIV", [X, np.float32(2.5)], [X], "Div", {}),
    ("ADD", [X, f32(5, 4)], [X], "Add", {"fusedActivationFunction": RELU_N1}),
    ("ADD", [X, (5, 4)], [X], "Add", {}),
    ("ADD", [(), X], [X], "Add", {}),
    ("ADD", [X, (1, 1, 1, 4)], [X], "Add", {}),
    ("ADD_N", [X, X, f32(*X)], [X], "", {}),
    *((kind, [X, f32(*X)], [(X, BOOL)], "", {}) for kind in COMPARISONS),
    *(
        (kind, [((7,), INT), i32(1, -2, 3, -1, 2, 1, -3)], [((7,), INT)], "", {})
        for kind in ("FLOOR_MOD", "FLOOR_DIV", "ADD", "MUL")
    ),
    *((kind, [((3, 4), BOOL), ((3, 4), BOOL)], [((3, 4), BOOL)], "", {}) for kind in ("LOGICAL_AND", "LOGICAL_OR")),
    ("BITWISE_XOR", [((3, 4), INT), ((3, 4), INT)], [((3, 4), INT)], "", {}),
    ("POW", [(3, 4), np.float32(2.0)], [(3, 4)], "", {}),
    ("CAST", [X], [(X, INT)], "Cast", {"outDataType": 2}),
    ("CAST", [((3, 4), INT)], [(3, 4)], "Cast", {"inDataType": 2}),
    ("SELECT_V2", [(X, BOOL), X, f32(4)], [X], "", {}),
    ("SELECT", [((3,), BOOL), (3, 4), (3, 4)], [(3, 4)], "", {}),
    ("RESHAPE", [X, i32(1, 30, 4)], [(1, 30, 4)], "", {}),
    ("RESHAPE", [X, i32(2, -1)], [(2, 60)], "", {}),
    ("RESHAPE", [X], [(30, 4)], "Reshape", {"newShape": [30, 4]}),
    ("SQUEEZE", [X], [(6, 5, 4)], "Squeeze", {"squeezeDims": [0]}),
    ("SQUEEZE", [(1, 3, 1, 2)], [(3, 2)], "Squeeze", {}),
    ("EXPAND_DIMS", [(3, 4), i32(1)], [(3, 1, 4)], "", {}),
    ("TRANSPOSE", [X, i32(0, 3, 2, 1)], [(1, 4, 5, 6)], "", {}),
    *(
        ("CONCATENATION", [X, X, f32(*X)], [shape], "Concatenation", {"axis": axis})
        for axis, shape in ((3, (1, 6, 5, 12)), (-3, (1, 18, 5, 4)))
    ),
    ("PACK", [(3, 4), (3, 4)], [(3, 2, 4)], "Pack", {"axis": 1, "valuesCount": 2}),
    ("UNPACK", [(3, 2, 4)], [(3, 4), (3, 4)], "Unpack", {"axis": 1, "num": 2}),
    ("SPLIT", [i32(3), X], [(1, 6, 5, 2), (1, 6, 5, 2)], "Split", {"numSplits": 2}),
    ("SPLIT_V", [X, i32(1, -1), i32(-3)], [(1, 1, 5, 4), (1, 5, 5, 4)], "SplitV", {"numSplits": 2}),
    ("PAD", [X, i32(0, 0, 1, 2, 0, 1, 3, 0).reshape(4, 2)], [(1, 9, 6, 7)], "", {}),
    ("PADV2", [X, i32(0, 0, 1, 2, 0, 1, 3, 0).reshape(4, 2), np.float32(2.5)], [(1, 9, 6, 7)], "", {}),
    *(
        ("MIRROR_PAD", [X, i32(0, 0, 2, 1, 0, 1, 2, 2).reshape(4, 2)], [(1, 9, 6, 8)], "MirrorPad", {"mode": mode})
        for mode in (0, 1)
    ),
    ("SLICE", [X, i32(0, 1, 0, 2), i32(1, 4, -1, 1)], [(1, 4, 5, 1)], "", {}),
    ("STRIDED_SLICE", [X, i32(0, 1, -1, 0), i32(1, 6, -6, 3), i32(1, 2, -1, 1)], [(1, 3, 5, 3)], "StridedSlice", {}),
    (
        "STRIDED_SLICE",
        [X, i32(0, 1, 9, 3), i32(0, 3, 9, 4), i32(1, 1, 1, 1)],
        [(1, 2, 5)],
        "StridedSlice",
        {"beginMask": 4, "endMask": 5, "shrinkAxisMask": 8},
    ),
    ("TILE", [(2, 3), i32(2, 1)], [(4, 3)], "", {}),
    ("BROADCAST_TO", [(1, 3), i32(2, 2, 3)], [(2, 2, 3)], "", {"version": 2}),
    ("REVERSE_V2", [X, i32(1)], [X], "", {}),
    ("SPACE_TO_BATCH_ND", [X, i32(2, 3), i32(0, 2, 1, 0).reshape(2, 2)], [(6, 4, 2, 4)], "", {}),
    ("BATCH_TO_SPACE_ND", [(6, 4, 2, 4), i32(2, 3), i32(0, 2, 1, 0).reshape(2, 2)], [(1, 6, 5, 4)], "", {}),
    ("GATHER", [X, i32(3, 0, 0)], [(1, 6, 5, 3)], "Gather", {"axis": 3}),
    ("GATHER_ND", [(3, 4), i32(2, 1, 0, 3).reshape(2, 2)], [(2,)], "", {}),
    ("SCATTER_ND", [i32(2, 0, 2).reshape(3, 1), (3, 4), i32(5, 4)], [(5, 4)], "", {}),
    *(
        (f"UNSORTED_SEGMENT_{kind}", [(4, 2), i32(2, 0, 2, 0), i32(4).reshape(())], [(4, 2)], "", {})
        for kind in ("MAX", "MIN", "PROD", "SUM")
    ),
    *(("STABLEHLO_AND", [((3, 4), dtype), ((3, 4), dtype)], [((3, 4), dtype)], "", {}) for dtype in (BOOL, INT)),
    ("SHAPE", [X], [((4,), INT)], "Shape", {"outType": 2}),
    ("FILL", [i32(2, 3), np.float32(1.5)], [(2, 3)], "", {}),
    ("ONE_HOT", [((5,), INT), i32(3).reshape(()), np.float32(2), np.float32(-1)], [(5, 3)], "OneHot", {"axis": -1}),
    *((kind, [X, i32(1, 2)], [(1, 1, 1, 4)], "Reducer", {"keepDims": True}) for kind in REDUCERS),
    ("MEAN", [X, i32(1, 2)], [(1, 4)], "Reducer", {}),
    ("MEAN", [X, i32(-1)], [(1, 6, 5)], "Reducer", {}),
    ("REDUCE_ANY", [((3, 4), BOOL), i32(1)], [((3,), BOOL)], "Reducer", {}),
    ("REDUCE_ALL", [((3, 4), BOOL), i32(0)], [((4,), BOOL)], "Reducer", {}),
    *(
        (kind, [X, i32(3)], [((1, 6, 5), INT)], table, {"outputType": 2})
        for kind, table in (("ARG_MAX", "ArgMax"), ("ARG_MIN", "ArgMin"))
    ),
    ("TOPK_V2", [(3, 6), i32(2).reshape(())], [(3, 2), ((3, 2), INT)], "", {}),
    *(("CUMSUM", [(3, 4), i32(1).reshape(())], [(3, 4)], "Cumsum", how) for how in ({}, {"exclusive": True, "reverse": True})),
    ("SOFTMAX", [X], [X], "Softmax", {"beta": 2.0}),
    ("LOG_SOFTMAX", [X], [X], "", {}),
    ("L2_NORMALIZATION", [X], [X], "L2Norm", {}),
    (
        "LOCAL_RESPONSE_NORMALIZATION",
        [X],
        [X],
        "LocalResponseNormalization",
        {"radius": 1, "alpha": 0.5, "beta": 0.75, "bias": 1.0},
    ),
]
POSITIVE_CASES = [(kind, [X], [X], "", {}) for kind in POSITIVE]
# No kernel of LiteRT to compare with alone, or no computed input, or subgraphs: covered by whole files in test_tflite_files and
# test_tflite_control; state: in test_tflite_recurrent.
ELSEWHERE = {
    "IF",
    "WHILE",
    *(f"{ways}DIRECTIONAL_SEQUENCE_{kind}" for ways in ("UNI", "BI") for kind in ("LSTM", "RNN")),
    "DENSIFY",
    "DEQUANTIZE",
    "QUANTIZE",
    "RANK",
    "RANGE",
    "BROADCAST_ARGS",
    "RIGHT_SHIFT",
}


def named(cases):
    return [pytest.param(*case, id=f"{index}-{case[0]}") for index, case in enumerate(cases)]


def agree(folder, low, kind, inputs, outputs, table, options):
    options = dict(options)
    version = options.pop("version", 1)
    for pooled in (False, True):
        source = read(folder, single(kind, inputs, outputs, table, version=version, pooled=pooled, **options))
        for wanted, found in both(folder, source, sample_of(source, low)):
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            if wanted.dtype.kind == "f":
                np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)
            else:
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("kind", "inputs", "outputs", "table", "options"), named(CASES))
def test_a_reader_says_what_the_runtime_computes(tmp_path, kind, inputs, outputs, table, options):
    agree(tmp_path, -4.0, kind, inputs, outputs, table, options)


@pytest.mark.parametrize(("kind", "inputs", "outputs", "table", "options"), named(POSITIVE_CASES))
def test_a_reader_of_a_function_of_positive_numbers(tmp_path, kind, inputs, outputs, table, options):
    agree(tmp_path, 0.1, kind, inputs, outputs, table, options)


def test_every_reader_is_tested():
    assert set(readers()) == {case[0] for case in (*CASES, *POSITIVE_CASES)} | ELSEWHERE


def test_an_operator_is_read_by_one_function():
    with pytest.raises(ValueError, match="ADD is read twice"):
        reads("ADD")(lambda to: None)


def test_a_fused_activation_that_kernels_pass_over_is_refused(tmp_path):
    """LiteRT's ADD takes a fused TANH without a word and does not apply it."""
    with pytest.raises(EdgewrightError) as error:
        read(tmp_path, single("ADD", [X, X], [X], "Add", fusedActivationFunction=TANH))
    assert error.value.code == "EW-M009"
    assert "activation" in error.value.why

"""Core ML Tools: what they make of an artifact, the same bytes twice, and whom a refusal names. Nothing here can run what they make."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from diagnostics import CompilerFailure
from exporter.backends.onnx.writer import write_onnx
from exporter.compilers import Compiled, Task, all_compilers
from exporter.compilers.coreml import compile_for_coreml
from exporter.compilers.coreml_torch import Unconverted, constants_of, pool_of, require_nodes, require_whole, run
from exporter.frontends import Source
from exporter.graph.passes import canonicalize
from exporter.graph.run import FloatRunner
from exporter.ops.activations import Relu
from exporter.pipeline import Options, build, compile_artifact
from exporter.quantization.planner import float_plan
from targets.loader import load_target
from tests.quantization.planned import network, target

PROGRAM = "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"
present = next(entry.present for entry in all_compilers() if entry.name == "coreml")
here = pytest.mark.skipif(not present, reason="pip install 'edgewright[coreml]'")


def classifier() -> ir.Model:
    return network(
        """
        a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b)
        r = Relu (a)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        l = Gemm <transB = 1> (f, v, c)
        scores = Softmax <axis = 1> (l)
        """,
        inputs="float[1, 3, 16, 16] x",
        outputs="float[1, 10] scores",
        w=(8, 3, 3, 3),
        b=(8,),
        v=(10, 8),
        c=(10,),
    )


def compiled(model: ir.Model, folder: Path, **options: str) -> Compiled:
    folder.mkdir(exist_ok=True)
    artifact = folder / "model.onnx"
    artifact.write_bytes(write_onnx(model, float_plan(model, target(precision="float32")), target(precision="float32")))
    return compile_for_coreml(Task(artifact, "iOS17", options, folder, Path(sys.executable), 300), "9.0")


def spec_of(found: Compiled) -> Any:
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString(found.files[PROGRAM])
    return spec


def operators(spec: Any) -> list[Any]:
    (main,) = spec.mlProgram.functions.values()
    (block,) = main.block_specializations.values()
    return [operation for operation in block.operations if operation.type != "const"]


@here
def test_the_program_has_the_artifacts_inputs_outputs_and_operators_and_the_same_bytes_twice(tmp_path: Path) -> None:
    model = classifier()
    model.graph.inputs[0].name, model.graph.outputs[0].name = "image/0", "class.scores"
    found, again = (compiled(model, tmp_path / name) for name in ("a", "b"))
    assert found == again
    assert next(iter(found.files)) == PROGRAM
    spec = spec_of(found)
    described = [(entry.name, list(entry.type.multiArrayType.shape)) for entry in spec.description.input]
    assert described == [("image_0", [1, 3, 16, 16])]
    assert [(entry.name, list(entry.type.multiArrayType.shape)) for entry in spec.description.output] == [
        ("class_scores", [1, 10])
    ]
    float32 = spec.description.output[0].type.multiArrayType.FLOAT32
    assert {entry.type.multiArrayType.dataType for entry in (*spec.description.input, *spec.description.output)} == {float32}
    types = Counter(operation.type for operation in operators(spec))
    assert {"conv": 1, "relu": 1, "linear": 1, "softmax": 1, "cast": 2}.items() <= types.items()
    assert found.figures["mil_operators"] == types.total()
    assert "image/0 is named image_0\n" in found.log
    assert not found.placements


@here
@pytest.mark.slow  # each conversion imports torch and coremltools anew
def test_the_package_is_one_that_coremltools_reads(tmp_path: Path) -> None:
    import coremltools

    found = compiled(classifier(), tmp_path / "work")
    for name, content in found.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    model = coremltools.models.MLModel(str(tmp_path / "model.mlpackage"), skip_model_load=True)
    assert model.get_spec() == spec_of(found)
    assert not any("date" in key for key in model.user_defined_metadata)


@here
@pytest.mark.slow  # each conversion imports torch and coremltools anew
def test_in_float32_nothing_is_cast(tmp_path: Path) -> None:
    types = {operation.type for operation in operators(spec_of(compiled(classifier(), tmp_path, precision="float32")))}
    assert "conv" in types
    assert "cast" not in types


@here
@pytest.mark.slow  # each conversion imports torch and coremltools anew
def test_what_float16_does_not_hold_is_refused_by_name(tmp_path: Path) -> None:
    model = network(
        "y = Mul (x, wide)",
        inputs="float[1, 4] x",
        outputs="float[1, 4] y",
        wide=np.full(4, 1e6, np.float32),
    )
    with pytest.raises(CompilerFailure) as caught:
        compiled(model, tmp_path / "half")
    assert caught.value.code == "EW-R007"
    assert "wide holds numbers beyond 65504" in caught.value.why
    assert compiled(model, tmp_path / "whole", precision="float32").files


def det() -> ir.Model:
    model = network("d = Det (x)\ny = Relu (d)", inputs="float[3, 2, 2] x", outputs="float[3] y")
    model.graph[0].name = "the_det"
    return model


@here
def test_an_operator_without_a_torch_function_is_refused_by_its_nodes_name(tmp_path: Path) -> None:
    with pytest.raises(CompilerFailure) as caught:
        compiled(det(), tmp_path)
    assert caught.value.code == "EW-R007"
    assert "the_det (Det)" in caught.value.why


def test_another_precision_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(CompilerFailure) as caught:
        compile_for_coreml(Task(tmp_path / "none.onnx", "iOS17", {"precision": "int8"}, tmp_path, Path("none"), 1), "9.0")
    assert caught.value.code == "EW-R007"


def parts(model: ir.Model, **sample: np.ndarray) -> tuple[Any, ...]:
    """The model's constants and inputs as tensors."""
    torch = pytest.importorskip("torch")
    return constants_of(model.graph), [torch.from_numpy(sample[value.name or ""]) for value in model.graph.inputs]


def test_a_difference_that_rounding_does_not_explain_is_refused() -> None:
    torch = pytest.importorskip("torch")
    model = network("y = Relu (x)", inputs="float[1, 2] x", outputs="float[1, 2] y")
    constants, given = parts(model, x=np.float32([[1, -2]]))
    wanted = {"y": np.float32([[1, 0]])}
    assert require_whole({"y": torch.tensor([[1.0, 0.0]])}, wanted, model.graph, constants, given) == 0.0
    for wrong in ([[1.0, -0.001]], [[1.0, float("nan")]], [1.0, 0.0]):
        with pytest.raises(Unconverted, match="output y"):
            require_whole({"y": torch.tensor(wrong)}, wanted, model.graph, constants, given)


def cancelling() -> ir.Model:
    """A variance as the mean of squares less the square of the mean: of numbers near each other, rounding is all that is left."""
    return network(
        """
        m = ReduceMean (x)
        q = Mul (x, x)
        a = ReduceMean (q)
        b = Mul (m, m)
        v = Sub (a, b)
        y = Sqrt (v)
        """,
        inputs="float[1, 500] x",
        outputs="float[1, 1] y",
    )


def test_what_is_left_of_a_difference_may_be_as_far_off_as_rounding_makes_it() -> None:
    model, random = cancelling(), np.random.default_rng(0)
    sample = {"x": (30 + 0.1 * random.standard_normal((1, 500))).astype(np.float32)}
    constants, given = parts(model, **sample)
    require_nodes(model, constants, sample)
    exact = run(model.graph, constants, given, lambda tensor: tensor.double())[model.graph.outputs[0]]
    wanted = FloatRunner(model)(sample)
    single = run(model.graph, constants, given)[model.graph.outputs[0]]
    assert require_whole({"y": single}, wanted, model.graph, constants, given) < 0.1
    assert abs(float(single) - float(exact)) > 1e-4 * float(exact)
    with pytest.raises(Unconverted, match="single precision is"):
        require_whole({"y": 1.5 * single}, wanted, model.graph, constants, given)


def test_another_formula_is_refused_by_its_nodes_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one part in a thousand, which the classes hardly show."""
    pytest.importorskip("torch")
    model = classifier()
    sample = {"x": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    constants, _ = parts(model, **sample)
    require_nodes(model, constants, sample)
    monkeypatch.setattr(Relu, "torch", lambda self, node, inputs: [1.001 * inputs[0].relu()])
    with pytest.raises(Unconverted, match=r"\(Relu\) differs by 0\.001 of its magnitude"):
        require_nodes(model, constants, sample)


@here
def test_inputs_keep_their_order_and_names_of_the_programs_own_values_and_words_stay_apart(tmp_path: Path) -> None:
    inputs = "float[1, 4] state, float[1, 3] relu"
    model = network("r = Relu (state)\ny = Concat <axis = 1> (r, relu)", inputs=inputs, outputs="float[1, 7] y")
    found = compiled(model, tmp_path)
    spec = spec_of(found)
    shapes = {entry.name: list(entry.type.multiArrayType.shape) for entry in spec.description.input}
    assert list(shapes.values()) == [[1, 4], [1, 3]]
    written = [value.name for operation in operators(spec) for value in operation.outputs]
    assert not set(shapes) & set(written)
    assert f"state is named {next(iter(shapes))}\n" in found.log


@here
def test_names_that_would_be_one_identifier_are_refused(tmp_path: Path) -> None:
    model = network("y = Add (a, b)", inputs="float[1, 4] a, float[1, 4] b", outputs="float[1, 4] y")
    model.graph.inputs[0].name, model.graph.inputs[1].name = "a.b", "a/b"
    with pytest.raises(CompilerFailure) as caught:
        compiled(model, tmp_path)
    assert "the same names in an ML program: a_b, a_b, y" in caught.value.why


@here
def test_what_an_optional_compiler_refuses_leaves_the_artifact_and_the_reason(digit_cnn: Source) -> None:
    profile = load_target("apple-ane")
    built = build(digit_cnn, profile, None, Options())
    assert profile.compile is not None
    wrong = profile.compile.model_copy(update={"options": {"precision": "int8"}})
    broken = replace(built, target=profile.model_copy(update={"compile": wrong}))
    left = compile_artifact(broken)
    assert left.artifact is built.artifact
    assert not left.compiled
    assert "int8 is no precision" in left.not_compiled
    with pytest.raises(CompilerFailure):
        compile_artifact(broken, Options(require_compiler=True))


@here
def test_a_profiles_artifact_is_converted(digit_cnn: Source) -> None:
    (found,) = compile_artifact(build(digit_cnn, load_target("apple-ane"), None, Options())).compiled
    assert (found.compiler, found.architecture) == ("coreml", "iOS17")
    types = {operation.type for operation in operators(spec_of(found))}
    assert {"conv", "relu", "linear", "max_pool"} <= types
    assert not {"gather", "reduce_max"} & types
    assert json.loads(json.dumps(found.to_dict()))["options"] == {"precision": "float16"}


@pytest.mark.parametrize(
    ("attributes", "own"),
    [
        ("kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]", True),
        ("kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]", True),  # of which no window reaches the padding
        ("kernel_shape = [2, 2], strides = [2, 2]", True),
        ("kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1", False),
        ("kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 2, 2]", False),
        ("kernel_shape = [2, 2], dilations = [2, 2]", False),
    ],
)
def test_torchs_own_pool_is_taken_where_it_computes_the_same(attributes: str, own: bool) -> None:
    torch = pytest.importorskip("torch")
    text = f'<ir_version: 10, opset_import: ["" : 21]> g (float[1, 2, 7, 7] x) => (float[1, 2, h, w] y) {{ y = MaxPool <{attributes}> (x) }}'
    model = canonicalize(ir.from_proto(onnx.parser.parse_model(text)))
    (node,) = model.graph
    pool = pool_of(node)
    assert (pool is not None) is own
    if pool is not None:
        x = np.random.default_rng(1).standard_normal((1, 2, 7, 7)).astype(np.float32)
        np.testing.assert_array_equal(pool(torch.from_numpy(x)).numpy(), FloatRunner(model)({"x": x})["y"])

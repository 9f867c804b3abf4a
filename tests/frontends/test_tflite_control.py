"""WHILE and IF come in as Loop and If: our own files read back, and files of other forms, beside LiteRT."""

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import helper, numpy_helper, parser
from tflite_bench import both, read

from diagnostics import ModelError
from exporter import convert
from exporter.backends.tflite.container import Container, packed_file
from exporter.frontends.tflite import load_tflite
from exporter.runtimes import open_session

STEPS, UNITS = 300, 8


def lstm(direction):
    random, directions = np.random.default_rng(0), 2 if direction == "bidirectional" else 1
    shapes = {"w": (directions, 4 * UNITS, 4), "r": (directions, 4 * UNITS, UNITS), "b": (directions, 8 * UNITS)}
    node = helper.make_node("LSTM", list("xwrb"), ["y", "h"], hidden_size=UNITS, direction=direction)
    graph = helper.make_graph(
        [node],
        "lstm",
        [helper.make_tensor_value_info("x", 1, [STEPS, 2, 4])],
        [helper.make_tensor_value_info(name, 1, None) for name in "yh"],
        [numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def loop(inputs, outputs, start, carried, body, **weights):
    text = f"<ir_version: 10, opset_import: ['' : 21]> g ({inputs}) => ({outputs}) {{ {start} {carried} {{ {body} }}> }}"
    model = parser.parse_model(text.replace("'", '"'))
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items())
    return model


def loops(folder):
    """The Loops of the file as they are read, before the canonical form unrolls them."""
    return [node for node in load_tflite(folder / "model.tflite").model.graph if node.op_type == "Loop"]


def assert_there_and_back(folder, model, feeds):
    """LiteRT gives the same, bit for bit, for our file and for what is made of it once it is read back, as onnxruntime does for what is read."""
    onnx.save(model, folder / "model.onnx")
    convert(folder / "model.onnx", folder / "model.tflite")
    source = read(folder, (folder / "model.tflite").read_bytes())
    again = convert(folder / "model.tflite", folder / "again.tflite")
    for feed in feeds:
        for wanted, found in both(folder, source, feed):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        assert_equal(folder, feed)
    return again


def assert_equal(folder, feed):
    """Both files give the same on LiteRT."""
    results = []
    for name in ("model", "again"):
        with open_session("litert-builtin", folder / f"{name}.tflite", isolate=False) as session:
            results.append(session.run(feed))
    assert set(results[0]) == set(results[1])
    for name, wanted in results[0].items():
        np.testing.assert_array_equal(results[1][name], wanted)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_long_lstm_comes_back_as_loops_that_collect(tmp_path, direction):
    x = np.random.default_rng(1).normal(size=(STEPS, 2, 4)).astype(np.float32)
    again = assert_there_and_back(tmp_path, lstm(direction), [{"x": x}])
    found = loops(tmp_path)
    assert len(found) == (2 if direction == "bidirectional" else 1)
    assert all(node.inputs[0].const_value is not None and len(node.outputs) == 3 for node in found)
    assert ("WHILE", 1) in again.operators


def test_a_condition_that_data_decides(tmp_path):
    model = loop(
        "float[2] x",
        "float[2] y",
        "y = Loop(n, , x)",
        "<body = l (int64 i, bool c, float[2] v) => (bool go, float[2] w)",
        "m = ReduceMax<keepdims=0>(v) go = Less(m, most) w = Add(v, step)",
        n=np.array(20),
        most=np.float32(1.5),
        step=np.float32([0.25, 0.5]),
    )
    feeds = [{"x": np.float32([start, 0])} for start in (0, 1, 3)]
    assert ("WHILE", 1) in assert_there_and_back(tmp_path, model, feeds).operators


def test_a_computed_number_of_steps(tmp_path):
    model = loop(
        "float[2] x, int64 n",
        "float[2] y",
        "y = Loop(n, , x)",
        "<body = l (int64 i, bool c, float[2] v) => (bool go, float[2] w)",
        "go = Identity(c) f = Cast<to=1>(i) a = Add(v, f) w = Sub(x, a)",
    )
    feeds = [{"x": np.float32([1, 2]), "n": np.array(count)} for count in (0, 1, 5)]
    assert_there_and_back(tmp_path, model, feeds)
    (node,) = loops(tmp_path)
    assert len(node.outputs) == 1  # neither the counter nor its bound nor x, which the body only reads


# --- files of other forms ---------------------------------------------------------------------------------------------


def written(build, inputs, outputs):
    """A file of one container: `build` takes it and the handles of the inputs, and gives those of the outputs, which have these shapes."""
    container = Container("bench")
    given = {f"x{index}": container.tensor(f"x{index}", *entry) for index, entry in enumerate(inputs)}
    made = [container.tensor(f"y{index}", *entry) for index, entry in enumerate(outputs)]
    build(container, list(given.values()), made)
    return container.finish(given, {f"y{index}": handle for index, handle in enumerate(made)}, {})


def subgraph(container, name, kinds, build):
    """`build` takes the subgraph and its inputs, and gives its outputs; the index of the subgraph."""
    inner = container.subgraph(name)
    inputs = [inner.tensor(f"in{index}", *kind) for index, kind in enumerate(kinds)]
    return inner.close(inputs, build(inner, inputs))


def computed(inner, op, inputs, shape, dtype="float32", **options):
    made = inner.tensor(op.lower(), shape, dtype)
    inner.operator(op, inputs, [made], 1, options)
    return made


COUNTED = [((), "int32"), ((2,), "float32")]


def counting(start, bound, by=1, kind="LESS"):
    """A counter from `start` to before `bound`, beside a sum of what it was; and where it ends."""

    def build(container, given, made):
        def condition(inner, carried):
            limit = inner.tensor("limit", (), "int32", None, np.asarray(bound, np.int32))
            return [computed(inner, kind, [carried[0], limit], (), "bool")]

        def body(inner, carried):
            one = inner.tensor("by", (), "int32", None, np.asarray(by, np.int32))
            real = computed(inner, "CAST", [carried[0]], ())
            return [computed(inner, "ADD", [carried[0], one], (), "int32"), computed(inner, "ADD", [carried[1], real], (2,))]

        first = container.tensor("start", (), "int32", None, np.asarray(start, np.int32))
        indices = subgraph(container, "condition", COUNTED, condition), subgraph(container, "body", COUNTED, body)
        options = {"cond_subgraph_index": indices[0], "body_subgraph_index": indices[1]}
        container.operator("WHILE", [first, *given], made, 1, options)

    return written(build, COUNTED[1:], COUNTED)


@pytest.mark.parametrize(
    ("form", "counts"),
    [((3, 7), True), ((5, 5), True), ((9, 2), True), ((0, 7, 2), False), ((0, 4, 1, "LESS_EQUAL"), False)],
    ids=["from three", "no step", "beyond", "by two", "to the bound"],
)
def test_a_counter_is_a_number_of_steps_where_it_goes_up_by_one(tmp_path, form, counts):
    source = read(tmp_path, counting(*form))
    (node,) = loops(tmp_path)
    assert (node.inputs[0] is not None) == counts
    assert "Loop" not in [node.op_type for node in source.model.graph]
    convert(tmp_path / "model.tflite", tmp_path / "again.tflite")
    assert_equal(tmp_path, {"x0": np.float32([1, -2])})


LENGTH = 5


def ints(inner, *values):
    return inner.tensor("ints", (len(values),), "int32", None, np.asarray(values, np.int32))


def scalar(inner, value):
    return inner.tensor("int", (), "int32", None, np.asarray(value, np.int32))


def updated(inner, whole, row, place):
    start = computed(inner, "MUL", [ints(inner, 1, 0), place], (2,), "int32")
    return computed(inner, "DYNAMIC_UPDATE_SLICE", [whole, row, start], (LENGTH, 2))


def item_set(inner, whole, row, place, behind=1):
    """As TensorFlow writes TensorListSetItem; its converter knows no sizes of what lies before and behind."""
    first = computed(inner, "RESHAPE", [place, ints(inner, 1)], (1,), "int32", new_shape=[1])
    after = computed(inner, "ADD", [place, scalar(inner, behind)], (), "int32")
    after = computed(inner, "RESHAPE", [after, ints(inner, 1)], (1,), "int32", new_shape=[1])
    size = computed(inner, "CONCATENATION", [first, ints(inner, -1)], (2,), "int32", axis=0)
    start = computed(inner, "CONCATENATION", [after, ints(inner, 0)], (2,), "int32", axis=0)
    head = computed(inner, "SLICE", [whole, ints(inner, 0, 0), size], (1, 2))
    tail = computed(inner, "SLICE", [whole, start, ints(inner, -1, -1)], (1, 2))
    return computed(inner, "CONCATENATION", [head, row, tail], (LENGTH, 2), axis=0)


def backward(inner, whole, row, place):
    return updated(inner, whole, row, computed(inner, "SUB", [scalar(inner, LENGTH - 1), place], (), "int32"))


def twice_as_far(inner, whole, row, place):
    return updated(inner, whole, row, computed(inner, "ADD", [place, place], (), "int32"))


def collecting(write, steps=LENGTH):
    """Two counters, a state, and what `write` makes of a tensor into which each step writes the state."""
    kinds = [((), "int32"), ((), "int32"), ((1, 2), "float32"), ((LENGTH, 2), "float32")]

    def build(container, given, made):
        def condition(inner, carried):
            below = [computed(inner, "LESS", [index, scalar(inner, steps)], (), "bool") for index in carried[:2]]
            return [computed(inner, "LOGICAL_AND", below, (), "bool")]

        def body(inner, carried):
            counts = [computed(inner, "ADD", [index, scalar(inner, 1)], (), "int32") for index in carried[:2]]
            state = computed(inner, "ADD", [carried[2], carried[2]], (1, 2))
            return [*counts, state, write(inner, carried[3], state, carried[1])]

        indices = subgraph(container, "condition", kinds, condition), subgraph(container, "body", kinds, body)
        options = {"cond_subgraph_index": indices[0], "body_subgraph_index": indices[1]}
        container.operator("WHILE", [scalar(container, 0)] * 2 + given, made, 1, options)

    def with_unknown_sizes(model):
        for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors if tensor.name.startswith(b"slice")):
            tensor.shapeSignature = np.asarray([-1, 2], np.int32)

    return changed(written(build, kinds[2:], kinds), with_unknown_sizes)


@pytest.mark.parametrize(
    ("write", "steps", "collects"),
    [
        (item_set, LENGTH, True),
        (updated, LENGTH, True),
        (backward, LENGTH, True),
        (twice_as_far, LENGTH, False),
        (updated, 3, False),
    ],
)
def test_what_each_step_writes_is_collected_where_nothing_else_is_left(tmp_path, write, steps, collects):
    read(tmp_path, collecting(write, steps))
    (node,) = loops(tmp_path)
    assert node.inputs[0].const_value.numpy() == steps
    assert len(node.inputs) == (3 if collects else 4)  # steps, condition, the state, and what it only seems to collect
    convert(tmp_path / "model.tflite", tmp_path / "again.tflite")
    random = np.random.default_rng(0)
    feed = {"x0": random.normal(size=(1, 2)).astype(np.float32), "x1": random.normal(size=(LENGTH, 2)).astype(np.float32)}
    assert_equal(tmp_path, feed)


def test_a_tensor_that_grows_is_refused(tmp_path):
    """Two items less, one more: the pieces have sizes that data decides."""
    content = collecting(lambda inner, *operands: item_set(inner, *operands, behind=2))
    with pytest.raises(ModelError, match="SLICE") as error:
        read(tmp_path, content)
    assert error.value.code == "EW-M009"


def branches(shape=(2, 3)):
    """Two outputs, of which one branch computes the first and gives an input as the second."""
    kinds = [((2, 3), "float32"), (shape, "float32")]

    def build(container, given, made):
        def then(inner, inputs):
            return [computed(inner, "ADD", inputs, (2, 3)), inputs[0]]

        def otherwise(inner, inputs):
            return [computed(inner, "MUL", inputs, (2, 3)), computed(inner, "NEG", inputs[1:], (2, 3))]

        indices = subgraph(container, "then", kinds, then), subgraph(container, "else", kinds, otherwise)
        options = {"then_subgraph_index": indices[0], "else_subgraph_index": indices[1]}
        container.operator("IF", given, made, 1, options)

    return written(build, [((1,), "bool"), ((2, 3), "float32"), ((2, 3), "float32")], [((2, 3), "float32")] * 2)


@pytest.mark.parametrize("condition", [True, False])
def test_an_if_chooses_its_branch(tmp_path, condition):
    source = read(tmp_path, branches())
    random = np.random.default_rng(0)
    feed = {f"x{index}": random.normal(size=(2, 3)).astype(np.float32) for index in (1, 2)} | {"x0": np.array([condition])}
    for wanted, found in both(tmp_path, source, feed):
        np.testing.assert_array_equal(found, wanted)
    assert "Where" in [node.op_type for node in source.model.graph]


def test_subgraphs_of_other_shapes_are_refused(tmp_path):
    with pytest.raises(ModelError, match="IF cannot be read") as error:
        read(tmp_path, branches((3, 2)))
    assert error.value.code == "EW-M009"
    assert "other shapes" in error.value.why


def changed(content, change):
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    return packed_file(model)


@pytest.mark.parametrize("index", [0, 2, 7, -1], ids=["the main graph", "itself", "none", "negative"])
def test_a_subgraph_that_is_none_or_runs_itself_is_no_model(tmp_path, index):
    def change(model):
        node = model.subgraphs[0].operators[0]
        if index == 2:
            model.subgraphs[2].operators.append(node)
            model.subgraphs[2].tensors += model.subgraphs[0].tensors
        else:
            node.builtinOptions.bodySubgraphIndex = index

    with pytest.raises(ModelError) as error:
        read(tmp_path, changed(counting(0, 3), change))
    assert error.value.code == "EW-M002"


def test_operators_inside_that_have_no_reader_are_named(tmp_path):
    def change(model):
        for code in model.operatorCodes:
            if code.builtinCode == schema.BuiltinOperator.CAST:
                code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.SVDF

    with pytest.raises(ModelError, match="SVDF") as error:
        read(tmp_path, changed(counting(0, 3), change))
    assert error.value.code == "EW-M009"

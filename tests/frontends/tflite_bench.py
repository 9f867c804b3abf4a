"""TFLite files of one operator, written by the schema alone, and both ways to run them: LiteRT, and the graph that is read from them."""

from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from exporter.frontends import Source, load
from exporter.graph.run import FloatRunner
from exporter.runtimes import open_session


class File:
    """Tensors and operators one after another; `finish` gives the bytes."""

    def __init__(self):
        self.tensors, self.operators, self.codes = [], [], []
        self.buffers = [schema.BufferT()]

    def tensor(self, name, shape, dtype="float32", data=None, scale=(), zero_point=(), axis=0, **fields) -> int:
        tensor = schema.TensorT(shape=np.asarray(shape, np.int32), name=name, hasRank=True, **fields)
        tensor.type = getattr(schema.TensorType, dtype.upper())
        if len(scale):
            tensor.quantization = schema.QuantizationParametersT(
                scale=np.asarray(scale, np.float32),
                zeroPoint=np.asarray(zero_point if len(zero_point) else [0] * len(scale), np.int64),
                quantizedDimension=axis,
            )
        if data is not None:
            tensor.buffer = len(self.buffers)
            self.buffers.append(schema.BufferT(data=np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)))
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, array) -> int:
        array = np.asarray(array)
        return self.tensor(f"constant_{len(self.tensors)}", array.shape, array.dtype.name, array)

    def operator(self, kind, inputs, outputs, table="", version=1, custom="", **options):
        code = schema.OperatorCodeT(builtinCode=getattr(schema.BuiltinOperator, kind), version=version, customCode=custom or None)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        operator = schema.OperatorT(opcodeIndex=len(self.codes), inputs=list(inputs), outputs=list(outputs))
        self.codes.append(code)
        if table:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{table}Options")
            operator.builtinOptions = getattr(schema, f"{table}OptionsT")()
            assert set(options) <= set(vars(operator.builtinOptions))
            for name, value in options.items():
                setattr(operator.builtinOptions, name, value)
        self.operators.append(operator)

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        graph = schema.SubGraphT(
            tensors=self.tensors, operators=self.operators, inputs=list(inputs), outputs=list(outputs), name="main"
        )
        model = schema.ModelT(version=3, operatorCodes=self.codes, subgraphs=[graph], buffers=self.buffers)
        builder = flatbuffers.Builder(4096)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def single(kind, inputs, outputs, table="", *, version=1, pooled=False, **options) -> bytes:
    """A file of one operator.

    An input is a shape (computed float32), a pair (shape, dtype), an array (constant) or None (absent); an output is a shape or a pair.
    `pooled` puts a MAX_POOL_2D of one pixel before every float input of rank 4, so that it reaches the operator channels-first.
    """
    file = File()
    given, handles = [], []
    for index, entry in enumerate(inputs):
        if entry is None:
            handles.append(-1)
        elif isinstance(entry, np.ndarray | np.generic):
            handles.append(file.constant(entry))
        else:
            shape, dtype = typed(entry)
            given.append(file.tensor(f"x{index}", shape, dtype))
            handles.append(given[-1])
            if pooled and len(shape) == 4 and dtype == "float32":
                handles[-1] = file.tensor(f"pooled_{index}", shape)
                window = {"filterHeight": 1, "filterWidth": 1, "strideH": 1, "strideW": 1}
                file.operator("MAX_POOL_2D", [given[-1]], [handles[-1]], "Pool2D", **window)
    made = [file.tensor(f"y{index}", *typed(entry)) for index, entry in enumerate(outputs)]
    file.operator(kind, handles, made, table, version, **options)
    return file.finish(given, made)


def typed(entry):
    return entry if len(entry) == 2 and isinstance(entry[1], str) else (entry, "float32")


def read(folder, content: bytes) -> Source:
    path = folder / "model.tflite"
    path.write_bytes(content)
    return load(path)


def sample_of(source: Source, low=-4.0, high=4.0, seed=0) -> dict[str, np.ndarray]:
    """Inputs spread evenly; integers are floored, booleans are positive ones."""
    generator = np.random.default_rng(seed)
    drawn = {entry.name: (generator.uniform(low, high, entry.shape), entry.dtype) for entry in source.inputs}
    return {
        name: array > 0 if dtype == "bool" else np.floor(array).astype(dtype) if "int" in dtype else array.astype(dtype)
        for name, (array, dtype) in drawn.items()
    }


def both(folder, source: Source, sample: Mapping[str, np.ndarray]):
    """Pairs (LiteRT's output, the graph's output)."""
    with open_session("litert-builtin", folder / "model.tflite", isolate=False) as session:
        wanted = session.run({info.name: sample[info.name] for info in session.inputs})
    known = {value.name: value.const_value.numpy() for value in source.model.graph.outputs if value.const_value is not None}
    found = known or FloatRunner(source.model)(sample)
    assert set(wanted) == set(found)
    return [(wanted[name], found[name]) for name in wanted]

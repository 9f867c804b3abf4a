"""Small canonical models from ONNX text."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.graph.passes import canonicalize


@pytest.fixture(scope="session")
def graph_of():
    """ONNX text and weights by name -> a canonical model."""

    def made(text, **weights):
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
        for name, array in weights.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return canonicalize(ir.serde.deserialize_model(proto))

    return made

"""The identity of a graph: what it computes and how its values are called, not where it came from."""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping
from typing import Final

import onnx_ir as ir

__all__ = ["digest_of"]

_OURS: Final = "edgewright."  # what legalizing notes on nodes decides which values a kernel writes


def digest_of(model: ir.Model) -> str:
    """sha256 of the graph, 64 hexadecimal digits: operators, attributes, names, shapes constants, and what legalizing notes; no source lines."""
    bare = model.clone()
    for node in bare.graph.all_nodes():
        node.doc_string = None
        _forget(node.metadata_props)
        for output in node.outputs:
            _forget(output.metadata_props)
    for value in (*bare.graph.inputs, *bare.graph.initializers.values()):
        _forget(value.metadata_props)
    digest = hashlib.sha256()
    for name in sorted(bare.graph.initializers):
        tensor = bare.graph.initializers[name].const_value
        assert tensor is not None
        digest.update(f"{name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
        digest.update(tensor.tobytes())
    bare.graph.initializers.clear()
    bare.metadata_props.clear()
    bare.graph.metadata_props.clear()
    bare.doc_string = bare.graph.doc_string = bare.producer_name = bare.producer_version = None
    digest.update(ir.to_proto(bare).SerializeToString(deterministic=True))
    return digest.hexdigest()


def _forget(notes: MutableMapping[str, str]) -> None:
    """Take away the notes that are not ours."""
    for key in [key for key in notes if not key.startswith(_OURS)]:
        del notes[key]

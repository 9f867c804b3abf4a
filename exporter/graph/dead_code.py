"""What no output depends on disappears.

::

    x -> Conv -> y (output)                    x -> Conv -> y (output)
      -> Relu -> z (unused)     w2 (unused)

Requires: nothing. Ensures: every node reaches a graph output, every initializer has a user; nodes are in topological order.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

__all__ = ["remove_dead_code"]


def remove_dead_code(model: ir.Model) -> None:
    """Remove unused nodes, initializers and opset imports in place, and sort the nodes. Graph inputs stay, used or not."""
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass(process_functions=False)(model)
    common.TopologicalSortPass()(model)

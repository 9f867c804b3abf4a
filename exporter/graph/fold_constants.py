"""Everything that can be computed before a sample is seen is computed now: weights' own arithmetic, and arithmetic of shapes.

::

    x -> Shape -> Gather(0) -> Concat(-1) -> Reshape(x, .)          x -> Reshape(x, [1, -1])

Requires: static shapes. Ensures: no node has constants as its only inputs, up to the size limits.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir
import onnx_ir.passes.common as common

__all__ = ["fold_constants"]

_LIMIT: Final = 1 << 24  # elements of a folded tensor: a whole embedding may be folded, a ConstantOfShape cannot fill the memory


def fold_constants(model: ir.Model) -> None:
    """Fold in place with onnxscript's optimizer, which also simplifies what shapes alone decide (Expand, Split, Concat of one, ...)."""
    from onnxscript import optimizer

    optimizer.optimize_ir(model, num_iterations=2, input_size_limit=_LIMIT, output_size_limit=_LIMIT, inline=True)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)

"""Windows without weights, resizing, and blocks of pixels that become channels."""

from __future__ import annotations

from exporter.frontends.tflite.operators.convolution import pads_of
from exporter.frontends.tflite.reading import Reading
from exporter.frontends.tflite.registry import reads

__all__: list[str] = []


@reads("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")
def pool(to: Reading) -> None:
    """AveragePool (padding does not count) or MaxPool; L2 is the root of the mean square."""
    kernel = (int(to.option("filterHeight", 1)), int(to.option("filterWidth", 1)))
    strides = (int(to.option("strideH", 1)), int(to.option("strideW", 1)))
    window = {"kernel_shape": kernel, "strides": strides, "pads": pads_of(to, to.shape()[1:3], kernel, strides, (1, 1))}
    x = to.input(0, first=True)
    if to.kind == "L2_POOL_2D":
        y = to.op("Sqrt", to.op("AveragePool", to.op("Mul", x, x), **window))
    else:
        y = to.op("MaxPool" if to.kind == "MAX_POOL_2D" else "AveragePool", x, **window)
    to.give(y, first=True)


@reads("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def resize(to: Reading) -> None:
    """Resize. TFLite's nearest takes floor((x + 0.5) * scale) with half-pixel centers: ONNX's half_pixel, rounded with halves up."""
    size = to.ints(1)
    corners, centers = bool(to.option("alignCorners", False)), bool(to.option("halfPixelCenters", False))
    to.give(
        to.op(
            "Resize",
            to.input(0, first=True),
            None,
            None,
            to.int64((to.shape()[0], to.shape()[3], *size)),
            mode="linear" if to.kind == "RESIZE_BILINEAR" else "nearest",
            coordinate_transformation_mode="align_corners" if corners else "half_pixel" if centers else "asymmetric",
            nearest_mode="round_prefer_ceil" if corners or centers else "floor",
        ),
        first=True,
    )


@reads("DEPTH_TO_SPACE", "SPACE_TO_DEPTH")
def blocks(to: Reading) -> None:
    """DepthToSpace in mode DCR: a pixel's channels are the rows, then the columns of its block."""
    kind = {"DEPTH_TO_SPACE": "DepthToSpace", "SPACE_TO_DEPTH": "SpaceToDepth"}[to.kind]
    to.give(to.op(kind, to.input(0, first=True), blocksize=int(to.option("blockSize", 1))), first=True)

"""MobileNetV2 as a workload: its shapes and statistics without trained weights, which no package registry carries."""

from __future__ import annotations

from typing import Any, Final

from tools.zoo_data import calibration_photos

__all__ = ["mobilenetv2"]

_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)
_PHOTOS: Final = 32


def mobilenetv2() -> dict[str, Any]:
    """timm's mobilenetv2_100, random weights, the statistics of its normalizations from photos: float32 [1, 3, 224, 224] -> 1000 scores.

    What it answers means nothing, so there is no task and no accuracy; how near an artifact is to it does.
    """
    import torch
    from PIL import Image

    from calibration import Preprocess
    from tools.breadth_models import make

    torch.manual_seed(0)
    net, (example,) = make("timm:mobilenetv2_100")
    preprocess = {"resize": 256, "crop": 224, "interpolation": "bicubic", "mean": _MEAN, "std": _STD}
    apply = Preprocess(**preprocess)
    # Photos that stay whatever calibrates: they are part of the network.
    paths = sorted(calibration_photos().iterdir())[:_PHOTOS]
    photos = [torch.from_numpy(apply.apply_image(Image.open(path).convert("RGB"))) for path in paths]
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the average of all batches, not a moving one
            module.reset_running_stats()
    with torch.no_grad():
        net.train()(torch.stack(photos))
    return {"model": net.eval(), "inputs": (torch.zeros_like(example),), "preprocess": preprocess}

"""What was assumed for want of a word, told: a model that was trained otherwise is calibrated and proved on inputs that it never gets."""

from __future__ import annotations

from calibration import Preprocess

__all__ = ["assumed"]


def assumed(said: Preprocess | None, used: Preprocess | None) -> tuple[str, ...]:
    """One sentence where images were given and nothing `said` how they become inputs, so that a default is `used`; else none."""
    if said is not None or used is None:
        return ()
    pixels = "0..255, as they are" if used.dtype == "uint8" else "0..1 (pixel / 255), no mean and std"
    size = "" if used.crop is None else f", shorter side {used.resize}, centre {used.crop}"
    return (
        f"nothing says how an image becomes the model's input; assumed: {used.color} of {pixels}{size}. If the model was trained on "
        "anything else, say so: --preprocess FILE, or the key preprocess beside the model",
    )

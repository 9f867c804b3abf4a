"""Every model of the zoo with its data and its purpose: what `tools.zoo_table` and the benchmarks walk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CASES", "Case"]

_GATES: Final = ("sqnr_db>=20",)


@dataclass(frozen=True)
class Case:
    """A model of `tools.zoo` with its two sets of samples, which share nothing.

    Attributes:
        model: name of the callable in `tools.zoo`.
        calibration, held_out: ``module:callable`` of each set.
        metric: ``module:callable`` of the task metric; None where agreement with the original is all that there is.
        samples, test_samples: how many of each set are used.
        lower_is_better: of the metric.
        gates: what an artifact of precision "auto" shall hold.
    """

    model: str
    calibration: str
    held_out: str
    metric: str | None = None
    samples: int = 64
    test_samples: int = 64
    lower_is_better: bool = False
    gates: tuple[str, ...] = _GATES


def _case(
    model: str,
    module: str,
    what: str,
    metric: str | None,
    samples: int,
    tests: int,
    suffix: str = "",
    gates: tuple[str, ...] = _GATES,
) -> Case:
    calibration, held_out = (f"tools.{module}:{split}_{what}{suffix}" for split in ("calibration", "held_out"))
    return Case(model, calibration, held_out, metric and f"tools.zoo_metrics:{metric}", samples, tests, gates=gates)


CASES: Final[dict[str, Case]] = {
    case.model: case
    for case in (
        _case("efficientnet_lite0", "zoo_images", "scenes", None, 128, 246),
        _case("digit_cnn", "zoo_data", "digits", "digit_accuracy", 128, 1000),
        _case("cifar_cnn", "zoo_images", "thumbnails", "cifar_accuracy", 128, 20),
        _case("mtcnn_onet", "zoo_images", "faces", "face_accuracy", 100, 100),
        _case("yolox_char", "zoo_render", "glyphs", "glyph_f1", 24, 24),
        _case("yolox_char_decoded", "zoo_render", "glyphs", "decoded_glyph_f1", 24, 24),
        _case("ocr_det", "zoo_render", "pages", "line_f1", 12, 8),
        Case(
            "ocr_rec",
            "tools.zoo_render:calibration_lines",
            "tools.zoo_render:held_out_lines",
            "tools.zoo_metrics:character_error_rate",
            64,
            64,
            lower_is_better=True,
            gates=("character_error_rate<=0.01",),
        ),
        _case("facemesh", "zoo_images", "portraits", "portrait_accuracy", 100, 100),
        _case("facemesh_half", "zoo_images", "portraits", "portrait_accuracy", 100, 100),
        _case("magika", "zoo_text", "files", "files_kept", 128, 790, gates=("top1_agreement>=0.988",)),
        _case("silero_vad", "zoo_audio", "speech", "speech_auc", 192, 937),
        _case("silero_vad_if", "zoo_audio", "speech", "speech_auc", 192, 937, "_if"),
        _case("basic_pitch", "zoo_audio", "chords", "note_f1", 12, 16),
        _case("basic_pitch_tflite", "zoo_audio", "chords", "note_f1", 12, 16),
        _case("minilm", "zoo_text", "sentences", "sentence_accuracy", 48, 96, gates=("sqnr_db>=25", "cosine>=0.995")),
    )
}

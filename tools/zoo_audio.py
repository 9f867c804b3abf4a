"""Speech along time for the stateful voice detector, and chords by construction for the transcriber of music.

Calibration hears the voice of Debian's alsa-utils and one half of the chords; held out are pyannote's labelled dialogue and the other half.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from tools.fetch import DebianPackage, Wheel, fetch_debian, fetch_wheel
from tools.zoo_data import Split

__all__ = [
    "SILERO",
    "calibration_chords",
    "calibration_speech",
    "calibration_speech_if",
    "chords",
    "dialogue",
    "held_out_chords",
    "held_out_speech",
    "held_out_speech_if",
    "speech_labels",
    "windows",
]

Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

SILERO: Final = Wheel("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8")
_PYANNOTE: Final = Wheel("pyannote-audio", "4.0.7", "852ea15c4d85bc34773e618267603ffca6a521669a74d33742692cc67fc700d6")
_ALSA: Final = DebianPackage(
    "alsa-utils", "1.2.8-1", "fb24eb1a318228b974efbef726190dd90c6106a208814a3ee8f5d69b91ee0ba4", "usr/share/sounds/alsa"
)
_RATE: Final = 16_000
_WINDOW, _CONTEXT = 512, 64  # samples that the detector hears anew, and those before them that it hears again
_MUSIC_RATE: Final = 22_050
_CLIP: Final = 43_844
_PITCHES: Final = range(40, 85)  # MIDI: E2 to C6


# --- speech -----------------------------------------------------------------------------------------------------------


def dialogue() -> tuple[Array, tuple[tuple[float, float], ...]]:
    """30 s of a dialogue of two, float32 [480000] at 16 kHz in -1..1, and (begin, end) seconds of every turn."""
    folder = fetch_wheel(_PYANNOTE) / "pyannote" / "audio" / "sample"
    turns = [line.split() for line in (folder / "sample.rttm").read_text().splitlines()]
    return _read_wav(folder / "sample.wav"), tuple((float(turn[3]), float(turn[3]) + float(turn[4])) for turn in turns)


def speech_labels() -> Array:
    """Whether somebody speaks in the middle of each window of `dialogue`, bool [937]."""
    audio, turns = dialogue()
    middles = (np.arange(len(audio) // _WINDOW) + 0.5) * _WINDOW / _RATE
    return np.any([(begin <= middles) & (middles < end) for begin, end in turns], axis=0)


def windows(audio: Array) -> Iterator[Array]:
    """float32 [1, 576]: 512 new samples behind the 64 before them."""
    padded = np.concatenate([np.zeros(_CONTEXT, np.float32), audio])
    for start in range(0, len(audio) - _WINDOW + 1, _WINDOW):
        yield padded[None, start : start + _CONTEXT + _WINDOW]


def calibration_speech() -> Iterator[dict[str, Array]]:
    """Windows and states for `zoo.silero_vad`, every second one along 12 s of a voice, noise and silence."""
    return _along(_voice(), every=2)


def held_out_speech() -> Iterator[dict[str, Array]]:
    """The windows and states of `dialogue`, 937 in time's order."""
    return _along(dialogue()[0])


def calibration_speech_if() -> Iterator[dict[str, Array]]:
    """`calibration_speech` with the sampling rate that `zoo.silero_vad_if` asks for."""
    return ({**sample, "sr": np.asarray(_RATE)} for sample in calibration_speech())


def held_out_speech_if() -> Iterator[dict[str, Array]]:
    """`held_out_speech` with the sampling rate."""
    return ({**sample, "sr": np.asarray(_RATE)} for sample in held_out_speech())


def _along(audio: Array, every: int = 1) -> Iterator[dict[str, Array]]:
    """Every `every`-th window with the state that the float original has there."""
    run, state = _original(), np.zeros((2, 1, 128), np.float32)
    for index, window in enumerate(windows(audio)):
        sample = {"input": window, "state": state}
        if index % every == 0:
            yield sample
        state = run(sample)["stateN"]


@cache
def _original() -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = fetch_wheel(SILERO) / "silero_vad" / "data" / "silero_vad_openvino_16k.onnx"
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda sample: dict(zip(names, session.run(None, dict(sample)), strict=True))


def _voice() -> Array:
    """The voice of alsa-utils naming loudspeakers, a pause of faint noise after each phrase; 48 kHz made 16 kHz."""
    from scipy.signal import resample_poly

    random, parts = np.random.default_rng(0), []
    for path in sorted(fetch_debian(_ALSA).glob("*.wav")):
        parts += [resample_poly(_read_wav(path), 1, 3), random.normal(0.0, 1e-3, _RATE // 4)]
    return np.concatenate(parts).astype(np.float32)


def _read_wav(path: Path) -> Array:
    """A mono file of 16-bit samples as float32 in -1..1."""
    with wave.open(io.BytesIO(path.read_bytes())) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768


# --- music ------------------------------------------------------------------------------------------------------------


def chords(split: Split, count: int) -> Iterator[tuple[Array, tuple[int, ...]]]:
    """Plucked chords of one to four notes, float32 [1, 43844, 1] at 22.05 kHz, and the MIDI pitches in them.

    Behind them is the noise of a room, as in any recording: the model takes logarithms of a spectrum, whose quietest part sets its scale.
    """
    random = np.random.default_rng(list(f"{split} chords".encode()))
    seconds = np.arange(_CLIP) / _MUSIC_RATE
    for _ in range(count):
        pitches = _apart(random)
        begin, decay, fall = random.uniform(0.05, 0.3), random.uniform(0.6, 2.0), random.uniform(1.0, 2.0)
        since = np.maximum(seconds - begin, 0.0)
        envelope = np.where(seconds >= begin, np.minimum(since / 0.005, 1.0) * np.exp(-since / decay), 0.0)
        audio = _room(random, random.uniform(0.004, 0.012))
        for pitch in pitches:
            frequency = 440.0 * 2.0 ** ((pitch - 69) / 12)
            for harmonic in range(1, 9):
                if harmonic * frequency < 0.45 * _MUSIC_RATE:
                    phase = random.uniform(0.0, 2 * np.pi)
                    audio += 0.12 * harmonic**-fall * envelope * np.sin(2 * np.pi * harmonic * frequency * seconds + phase)
        yield audio.astype(np.float32)[None, :, None], pitches


def calibration_chords() -> Iterator[Array]:
    """16 clips that calibrate `zoo.basic_pitch`."""
    return (audio for audio, _ in chords("calibration", 16))


def held_out_chords() -> Iterator[Array]:
    """24 others."""
    return (audio for audio, _ in chords("held_out", 24))


def _room(random: np.random.Generator, level: float) -> Array:
    """Pink noise (power falls as 1 / frequency) of root mean square `level`, float64 [43844]."""
    spectrum = np.fft.rfft(random.normal(size=_CLIP))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1.0)), _CLIP)
    return np.asarray(noise * (level / np.sqrt(np.mean(noise**2))))


def _apart(random: np.random.Generator) -> tuple[int, ...]:
    """One to four pitches at least three semitones apart, no two an octave or a twelfth apart: those hide in each other's harmonics."""
    found: list[int] = []
    wanted = int(random.integers(1, 5))
    while len(found) < wanted:
        pitch = int(random.choice(_PITCHES))
        if all(abs(pitch - other) > 2 and abs(pitch - other) not in (12, 19, 24, 28, 31) for other in found):
            found.append(pitch)
    return tuple(sorted(found))

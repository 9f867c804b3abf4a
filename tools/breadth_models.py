"""The models of `tools.breadth`: random weights, small sizes. timm and transformers are imported where a model is made."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

__all__ = ["make", "names"]

Made = tuple[Any, tuple[Any, ...]]  # a module and its inputs
_MEMBERS: Final = Path(__file__).with_name("breadth_timm.json")


def names(suite: str) -> list[str]:
    """Names of the models of "timm", "transformers" or "all"."""
    timm = [f"timm:{name}" for name in json.loads(_MEMBERS.read_text()).values()]
    transformers = [f"transformers:{name}" for name in _TRANSFORMERS]
    return {"timm": timm, "transformers": transformers, "all": timm + transformers}[suite]


def make(name: str) -> Made:
    """The module and its inputs."""
    suite, _, member = name.partition(":")
    return _timm(member) if suite == "timm" else _TRANSFORMERS[member]()


def _timm(member: str) -> Made:
    import torch

    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.insert(0, _StandIn())
    import timm

    model = timm.create_model(member, pretrained=False)
    return model, (torch.randn(1, *model.default_cfg.get("input_size", (3, 224, 224))),)


def _encoder(model: str, config: str, **sizes: Any) -> Callable[[], Made]:
    """A text encoder with small random weights: token ids [1, 16] -> last hidden state."""

    def build() -> Made:
        import torch
        import transformers

        settings = getattr(transformers, config)(**{"vocab_size": 100, **sizes})
        return _first_output(getattr(transformers, model)(settings)), (torch.randint(3, 90, (1, 16)),)

    return build


def _vision(model: str, config: str, side: int, **sizes: Any) -> Callable[[], Made]:
    """An image encoder with small random weights: pixels [1, 3, side, side] -> last hidden state."""

    def build() -> Made:
        import torch
        import transformers

        settings = getattr(transformers, config)(image_size=side, **sizes)
        return _first_output(getattr(transformers, model)(settings)), (torch.randn(1, 3, side, side),)

    return build


def _audio(model: str, config: str, shape: tuple[int, ...], **sizes: Any) -> Callable[[], Made]:
    def build() -> Made:
        import torch
        import transformers

        made = getattr(transformers, model)(getattr(transformers, config)(**sizes))
        return _first_output(made.get_encoder() if hasattr(made, "get_encoder") and model == "WhisperModel" else made), (
            torch.randn(*shape),
        )

    return build


def _first_output(model: Any) -> Any:
    """The model with one tensor as its output: the last hidden state or the logits."""
    from torch import nn

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            found = self.model(x)
            return found[0] if isinstance(found, tuple) else next(iter(found.values()))

    return First()


_SMALL: Final = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_DECODER: Final = {**_SMALL, "num_key_value_heads": 2, "use_cache": False}

_TRANSFORMERS: Final[dict[str, Callable[[], Made]]] = {
    "bert": _encoder("BertModel", "BertConfig", **_SMALL),
    "roberta": _encoder("RobertaModel", "RobertaConfig", **_SMALL),
    "distilbert": _encoder("DistilBertModel", "DistilBertConfig", dim=64, n_layers=2, n_heads=4, hidden_dim=128),
    "electra": _encoder("ElectraModel", "ElectraConfig", **_SMALL, embedding_size=64),
    "albert": _encoder("AlbertModel", "AlbertConfig", **_SMALL, embedding_size=32),
    "mobilebert": _encoder("MobileBertModel", "MobileBertConfig", num_hidden_layers=2),
    "deberta_v2": _encoder("DebertaV2Model", "DebertaV2Config", **_SMALL),
    "xlm_roberta": _encoder("XLMRobertaModel", "XLMRobertaConfig", **_SMALL),
    "t5_encoder": _encoder(
        "T5EncoderModel", "T5Config", d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, use_cache=False
    ),
    "gpt2": _encoder("GPT2Model", "GPT2Config", n_embd=64, n_layer=2, n_head=4, use_cache=False),
    "llama": _encoder("LlamaModel", "LlamaConfig", **_DECODER),
    "qwen2": _encoder("Qwen2Model", "Qwen2Config", **_DECODER),
    "mistral": _encoder("MistralModel", "MistralConfig", **_DECODER),
    "gemma": _encoder("GemmaModel", "GemmaConfig", **_DECODER, head_dim=16),
    "vit": _vision("ViTModel", "ViTConfig", 64, **_SMALL, patch_size=16),
    "deit": _vision("DeiTModel", "DeiTConfig", 64, **_SMALL, patch_size=16),
    "dinov2": _vision(
        "Dinov2Model", "Dinov2Config", 56, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, patch_size=14
    ),
    "swin": _vision("SwinModel", "SwinConfig", 64, embed_dim=24, depths=[1, 1], num_heads=[2, 4], window_size=4),
    "clip_vision": _vision("CLIPVisionModel", "CLIPVisionConfig", 64, **_SMALL, patch_size=16),
    "clip_text": _encoder("CLIPTextModel", "CLIPTextConfig", **_SMALL, max_position_embeddings=32, eos_token_id=2),
    "whisper_encoder": _audio(
        "WhisperModel",
        "WhisperConfig",
        (1, 80, 200),
        d_model=64,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=100,
    ),
    "wav2vec2": _audio("Wav2Vec2Model", "Wav2Vec2Config", (1, 4000), **_SMALL, num_conv_pos_embeddings=16),
}


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes every ``import torchvision...`` succeed with empty classes: enough to import timm, whose models do not use them."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Hollow(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Hollow(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (object,), {})


class _Empty(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (object,), {})

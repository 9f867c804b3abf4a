"""``make breadth``: one small member of every timm family and some transformers configurations, random weights, to float TFLite.

Each model is exported in a process of its own with a time limit and judged by what LiteRT computes beside PyTorch on random inputs:
exact (SQNR of every output at least 60 dB), refused (an error with a code and a reason), wrong (anything else that was called a success).

`tools/breadth_timm.json` names the smallest member of each of timm 1.0's families (parameters times pixels), counted on the meta device.
timm imports torchvision, of which there is no build for every machine: where it is absent, an importable stand-in takes its place.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["Outcome", "main"]

EXACT_DB: Final = 60.0
_MEMBERS: Final = Path(__file__).with_name("breadth_timm.json")


@dataclass(frozen=True)
class Outcome:
    """Of one model: "exact", "refused" or "wrong", its SQNR (None where all outputs are equal or there is no file), and the reason."""

    name: str
    verdict: str
    sqnr_db: float | None = None
    reason: str = ""
    seconds: float = 0.0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Export many architectures to float TFLite and compare.")
    parser.add_argument("--only", default="", help="names that hold this text")
    parser.add_argument("--suite", choices=["timm", "transformers", "all"], default="all")
    parser.add_argument("--limit", type=int, default=400, help="seconds a model")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(asdict(_export(chosen.one))))
        return 0
    names = [name for name in _names(chosen.suite) if chosen.only in name]
    outcomes = []
    for name in names:
        outcome = _isolated(name, chosen.limit)
        outcomes.append(outcome)
        decibels = "" if outcome.sqnr_db is None else f"{outcome.sqnr_db:.1f} dB"
        print(f"{outcome.verdict:<8} {name:<48} {decibels:>10} {outcome.seconds:6.1f} s  {outcome.reason[:160]}", flush=True)
        if chosen.json is not None:
            chosen.json.write_text(json.dumps([asdict(entry) for entry in outcomes], indent=1) + "\n")
    for suite in ("timm", "transformers"):
        counted = Counter(outcome.verdict for outcome in outcomes if outcome.name.startswith(suite))
        if counted:
            print(f"{suite}: " + ", ".join(f"{counted[verdict]} {verdict}" for verdict in ("exact", "refused", "wrong")))
    return 1 if any(outcome.verdict == "wrong" for outcome in outcomes) else 0


def _names(suite: str) -> list[str]:
    timm = [f"timm:{name}" for name in json.loads(_MEMBERS.read_text()).values()]
    transformers = [f"transformers:{name}" for name in _TRANSFORMERS]
    return {"timm": timm, "transformers": transformers, "all": timm + transformers}[suite]


def _isolated(name: str, limit: int) -> Outcome:
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tools.breadth", "--one", name],
            capture_output=True,
            text=True,
            timeout=limit,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        outcome = Outcome(**json.loads(done.stdout.strip().splitlines()[-1]))
    except subprocess.TimeoutExpired:
        outcome = Outcome(name, "refused", reason=f"longer than {limit} s")
    except (IndexError, ValueError):
        outcome = Outcome(name, "wrong", reason=f"the process ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return Outcome(outcome.name, outcome.verdict, outcome.sqnr_db, outcome.reason, time.perf_counter() - start)


def _export(name: str) -> Outcome:
    import torch

    from diagnostics import EdgewrightError
    from exporter import convert

    torch.manual_seed(0)
    torch.set_num_threads(1)
    suite, _, member = name.partition(":")
    try:
        module, inputs = _timm(member) if suite == "timm" else _TRANSFORMERS[member]()
    except Exception as error:
        return Outcome(name, "refused", reason=f"the model cannot be made here: {type(error).__name__}: {error}"[:300])
    _spread(module)
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = convert(module.eval(), Path(folder) / "model.tflite", inputs=inputs)
        except EdgewrightError as error:
            verdict = "wrong" if error.code == "EW-R005" else "refused"
            return Outcome(name, verdict, reason=f"{error.code}: {error.what} {error.why}"[:400])
        except Exception as error:
            return Outcome(name, "wrong", reason=f"{type(error).__name__}: {error}"[:400])
    exact = done.sqnr_db is None or done.sqnr_db >= EXACT_DB
    return Outcome(name, "exact" if exact else "wrong", done.sqnr_db)


def _spread(module: Any) -> None:
    """Give parameters that are initialized to one value some variance: a head of zeros would make every output equal to any other."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and float(parameter.std()) == 0:
                parameter.add_(torch.randn_like(parameter) * 0.02)


# --- models -----------------------------------------------------------------------------------------------------------


def _timm(member: str) -> tuple[Any, tuple[Any, ...]]:
    import torch

    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.insert(0, _StandIn())
    import timm

    model = timm.create_model(member, pretrained=False)
    return model, (torch.randn(1, *model.default_cfg.get("input_size", (3, 224, 224))),)


def _encoder(model: str, config: str, **sizes: Any) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
    """A text encoder with small random weights: token ids [1, 16] -> last hidden state."""

    def build() -> tuple[Any, tuple[Any, ...]]:
        import torch
        import transformers

        settings = getattr(transformers, config)(**{"vocab_size": 100, **sizes})
        return _first_output(getattr(transformers, model)(settings)), (torch.randint(3, 90, (1, 16)),)

    return build


def _vision(model: str, config: str, side: int, **sizes: Any) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
    """An image encoder with small random weights: pixels [1, 3, side, side] -> last hidden state."""

    def build() -> tuple[Any, tuple[Any, ...]]:
        import torch
        import transformers

        settings = getattr(transformers, config)(image_size=side, **sizes)
        return _first_output(getattr(transformers, model)(settings)), (torch.randn(1, 3, side, side),)

    return build


def _audio(model: str, config: str, shape: tuple[int, ...], **sizes: Any) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
    def build() -> tuple[Any, tuple[Any, ...]]:
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

_TRANSFORMERS: Final[dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]]] = {
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Architectures whose weights alone a package carries, under the parameter names of those weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Bert", "MobileNet", "ONet", "person_detection"]


class ONet(nn.Module):
    """The O-Net of MTCNN (Zhang et al. 2016, fig. 2), with the parameter names of facenet-pytorch's weights."""

    def __init__(self) -> None:
        super().__init__()
        channels, kernels = (3, 32, 64, 64, 128), (3, 3, 3, 2)
        for index, kernel in enumerate(kernels, start=1):
            setattr(self, f"conv{index}", nn.Conv2d(channels[index - 1], channels[index], kernel))
            setattr(self, f"prelu{index}", nn.PReLU(channels[index]))
        self.pools = nn.ModuleList(nn.MaxPool2d(kernel, 2, ceil_mode=True) for kernel in (3, 3, 2))
        self.dense5 = nn.Linear(1152, 256)
        self.prelu5 = nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        for index in range(1, 5):
            x = getattr(self, f"prelu{index}")(getattr(self, f"conv{index}")(x))
            if index <= len(self.pools):
                x = self.pools[index - 1](x)
        x = x.permute(0, 3, 2, 1).flatten(1)  # the weights come from a framework that flattens columns first
        x = self.prelu5(self.dense5(x))
        return self.dense6_2(x), self.dense6_3(x), self.dense6_1(x).softmax(dim=1)


class MobileNet(nn.Module):
    """MobileNet (Howard et al. 2017, table 1), with every number of channels times `width`.

    Images float32 [N, channels, H, W] -> logits float32 [N, classes].
    """

    def __init__(self, width: float, channels: int, classes: int) -> None:
        super().__init__()
        sizes = [round(width * size) for size in (32, 64, 128, 128, 256, 256, 512, *[512] * 5, 1024, 1024)]
        strides = (1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1)
        blocks = [_normalized(nn.Conv2d(channels, sizes[0], 3, 2, 1, bias=False))]
        for before, after, stride in zip(sizes, sizes[1:], strides, strict=False):
            blocks.append(_normalized(nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False)))
            blocks.append(_normalized(nn.Conv2d(before, after, 1, bias=False)))
        self.features = nn.Sequential(*blocks)
        self.classify = nn.Linear(sizes[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(x).mean((2, 3)))


def _normalized(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU6())


def person_detection() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The network of the visual wake words (Chowdhery et al. 2019, section 4: MobileNet, width 0.25, 96 by 96, gray), random weights."""
    torch.manual_seed(0)
    model = MobileNet(0.25, 1, 2)
    model(torch.randn(64, 1, 96, 96))  # one batch through it gives the normalizations statistics of their own
    return model.eval(), (torch.zeros(1, 1, 96, 96),)


class Bert(nn.Module):
    """The encoder of BERT (Devlin et al. 2019, section 3; learned absolute positions, one segment), with transformers' parameter names.

    Token ids and attention mask int64 [N, S] -> last hidden states float32 [N, S, width].
    """

    def __init__(self, vocabulary: int, width: int, inner: int, layers: int, heads: int, positions: int, epsilon: float) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(vocabulary, width),
                "position_embeddings": nn.Embedding(positions, width),
                "token_type_embeddings": nn.Embedding(2, width),
                "LayerNorm": nn.LayerNorm(width, epsilon),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_BertLayer(width, inner, heads, epsilon) for _ in range(layers))})

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.embeddings["word_embeddings"](input_ids) + self.embeddings["position_embeddings"](places)
        x = self.embeddings["LayerNorm"](x + self.embeddings["token_type_embeddings"].weight[0])
        hidden = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        for layer in self.encoder["layer"]:
            x = layer(x, hidden)
        return x


class _BertLayer(nn.Module):
    def __init__(self, width: int, inner: int, heads: int, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        own = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": own, "output": _output(width, width, epsilon)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = _output(inner, width, epsilon)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        own, mixed, out = self.attention["self"], self.attention["output"], self.output
        query, key, value = (own[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value"))
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + hidden).softmax(dim=-1)
        x = mixed["LayerNorm"](x + mixed["dense"]((weights @ value).transpose(1, 2).flatten(2)))
        return out["LayerNorm"](x + out["dense"](functional.gelu(self.intermediate["dense"](x))))


def _output(inner: int, width: int, epsilon: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, epsilon)})

"""Attention that torch's own exporter does not take: over several batch-like axes, and with gradients left on."""

import numpy as np
import pytest

from exporter.frontends import load
from exporter.graph.run import FloatRunner

torch = pytest.importorskip("torch")


class Windows(torch.nn.Module):
    """Self-attention in windows: query, key and value of rank 5 [batch, heads, windows, tokens, depth]."""

    def __init__(self, mask: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project, self.mask = torch.nn.Linear(8, 24), mask

    def forward(self, x):
        query, key, value = self.project(x).reshape(1, 3, 2, 4, 3, 8).permute(4, 0, 2, 1, 3, 5)
        bias = {
            "": None,
            "float": torch.linspace(-1, 1, 16).reshape(4, 4),
            "bool": torch.ones(4, 4, dtype=torch.bool).tril(),
        }[self.mask]
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)


@pytest.mark.parametrize("mask", ["", "float", "bool"])
def test_attention_of_rank_five_is_traced(mask):
    x = torch.randn(1, 3, 2, 4, 8)
    source = load(Windows(mask).eval(), inputs=(x,))
    sample = {source.inputs[0].name: x.numpy()}
    (wanted,), (found,) = source.reference(sample).values(), FloatRunner(source.model)(sample).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_attention_with_a_learned_bias_is_traced():
    """A bias with a gradient sends torch to another kernel, whose strides its exporter cannot view."""

    class Biased(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.project, self.bias = torch.nn.Linear(16, 48), torch.nn.Parameter(torch.randn(1, 2, 5, 5))

        def forward(self, x):
            query, key, value = self.project(x).reshape(1, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
            mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=self.bias)
            return mixed.transpose(1, 2).reshape(1, 5, 16)

    x = torch.randn(1, 5, 16)
    source = load(Biased().eval(), inputs=(x,))
    sample = {source.inputs[0].name: x.numpy()}
    (wanted,), (found,) = source.reference(sample).values(), FloatRunner(source.model)(sample).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)

"""The rules of the profiles for Ethos-U, held to Vela: on networks, and on single operators within and beyond each limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from calibration import open_samples
from diagnostics import CompilerFailure
from exporter.built import Built
from exporter.compilers import disagreements
from exporter.frontends import load
from exporter.pipeline import Options, build, compile_artifact
from targets import load_target, target_names
from targets.precision import choose_precision

TARGETS = tuple(name for name in target_names() if name.startswith("ethos-u"))
FIRST = "ethos-u55-128"
OTHERS = [pytest.param(target, marks=() if target == FIRST else pytest.mark.slow) for target in TARGETS]


def compiled(module: nn.Module, shape: tuple[int, ...], target: str, precision: str = "int8") -> Built:
    source = load(module.eval(), inputs=(torch.zeros(shape),))
    random = np.random.default_rng(0)
    samples = [{source.inputs[0].name: random.standard_normal(shape).astype(np.float32)} for _ in range(4)]
    profile = choose_precision(load_target(target), precision)
    options = Options(method="minmax", refine=False, require_compiler=True)
    return compile_artifact(build(source, profile, open_samples(samples, source.inputs, None), options), options)


def on_cpu(built: Built) -> list[str]:
    (found,) = built.compiled
    return [placement.op_type for placement in found.left_out]


class Around(nn.Module):
    """What is under test between two convolutions, as in a network: they make the layout channels-last."""

    def __init__(self, inner: Any, channels: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = inner
        self.before, self.after = nn.Conv2d(8, 16, 1), nn.Conv2d(channels, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.inner(self.before(x)))


def scaled(by: float, mode: str = "nearest") -> Any:
    return lambda x: functional.interpolate(x, scale_factor=by, mode=mode)


WITHIN = {
    "stride 3, padded": Around(nn.Conv2d(16, 16, 3, 3, 1)),
    "stride 4, not padded": Around(nn.Conv2d(16, 16, 4, 4)),
    "depthwise": Around(nn.Conv2d(16, 16, 3, 2, 1, groups=16)),
    "dilated": Around(nn.Conv2d(16, 16, 3, 1, 2, dilation=2)),
    "average pool": Around(nn.AvgPool2d(2)),
    "average pool of 12, not padded": Around(nn.AvgPool2d(12)),
    "max pool": Around(nn.MaxPool2d(3, 2, 1)),
    "global average pool": Around(nn.AdaptiveAvgPool2d(1)),
    "transposed": Around(nn.ConvTranspose2d(16, 16, 2, 2)),
    "twice": Around(scaled(2.0)),
    "hard swish": Around(nn.Hardswish()),
    "leaky relu": Around(nn.LeakyReLU(0.1)),
    "sigmoid": Around(lambda x: x * torch.sigmoid(x)),
    "tanh": Around(torch.tanh),
    "softmax": Around(lambda x: x.softmax(1)),
    "residual": Around(lambda x: x + torch.relu(x)),
    "concat": Around(lambda x: torch.cat([x, -x], 1), 32),
    "pad": Around(lambda x: functional.pad(x, (1, 2, 3, 0))),
    "slice": Around(lambda x: x[:, :, 2:-2, ::1]),
}
# Beyond a limit, on these targets; within it on the others.
BEYOND = {
    "three times": (Around(scaled(3.0)), ("RESIZE_NEAREST_NEIGHBOR",), "ethos-u55-128"),
    "shuffled": (Around(nn.PixelShuffle(2), 4), ("DEPTH_TO_SPACE",), "ethos-u55-128"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WITHIN)
def test_what_the_rules_give_to_the_npu_vela_puts_there(case: str) -> None:
    for target in ("ethos-u55-128", "ethos-u85-256"):
        built = compiled(WITHIN[case], (1, 8, 24, 24), target)
        assert on_cpu(built) == []
        assert disagreements(built) == ()


@pytest.mark.parametrize("case", BEYOND)
def test_what_the_rules_leave_to_the_cpu_vela_leaves_there(case: str) -> None:
    module, expected, target = BEYOND[case]
    built = compiled(module, (1, 8, 24, 24), target)
    assert set(expected) <= set(on_cpu(built))
    assert disagreements(built) == ()
    (found,) = built.compiled
    assert all(placement.reasons and "no reason" not in placement.reasons[0] for placement in found.left_out)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "left"), [("ethos-u55-128", ["BATCH_MATMUL", "BATCH_MATMUL"]), ("ethos-u85-256", [])])
def test_products_of_two_activations_of_16_bits_are_for_ethos_u85(target: str, left: list[str]) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(24, 72)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            query, key, value = self.mix(x).chunk(3, -1)
            return (query @ key.transpose(1, 2) * 0.2).softmax(-1) @ value

    for precision, expected in (("int8", []), ("int16x8", left)):
        built = compiled(Attention(), (1, 12, 24), target, precision)
        assert on_cpu(built) == expected
        assert disagreements(built) == ()


def test_what_vela_fails_at_is_an_error_with_its_words() -> None:
    """A padded convolution with stride 4 is beyond the NPU, and Vela 5.2.0 ends with an exception where it is alone in being so."""
    with pytest.raises(CompilerFailure) as caught:
        compiled(Around(nn.Conv2d(16, 16, 5, 4, 2)), (1, 8, 24, 24), "ethos-u55-128")
    assert caught.value.code == "EW-R007"
    assert "could not run on NPU" in caught.value.why


def test_a_rule_that_vela_does_not_share_is_told() -> None:
    built = compiled(BEYOND["three times"][0], (1, 8, 24, 24), "ethos-u55-128")
    npu, *others = built.target.units
    lax = built.target.model_copy(update={"units": (npu.model_copy(update={"limits": ()}), *others)})
    (found,) = disagreements(replace(built, target=lax))
    assert (found.ours, found.theirs) == ("npu", "cpu")
    sentence = str(found)
    assert "RESIZE_NEAREST_NEIGHBOR" in sentence
    assert "our rules say npu, vela for ethos-u55-128 says cpu because" in sentence


@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.parametrize("precision", ["int8", pytest.param("int16x8", marks=pytest.mark.slow)])
def test_a_person_detection_network_runs_wholly_on_the_npu(target: str, precision: str) -> None:
    from tools.zoo_nets import person_detection

    model, (example,) = person_detection()
    built = compiled(model, tuple(example.shape), target, precision)
    assert on_cpu(built) == []
    assert disagreements(built) == ()
    (found,) = built.compiled
    assert found.figures["cycles"] > 0
    assert sum(place.figures.get("macs", 0) for place in found.placements) == pytest.approx(found.figures["macs"], rel=0.01)


@pytest.mark.parametrize("target", OTHERS)
def test_the_digit_classifier_runs_wholly_on_the_npu(target: str) -> None:
    from tools.zoo import digit_cnn

    built = compiled(digit_cnn()["model"], (1, 1, 28, 28), target)
    assert on_cpu(built) == []
    assert disagreements(built) == ()

"""What counts against flash and SRAM of a target: the file, what a compiler made of it, the arena with the device's own scratch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from calibration import open_samples
from diagnostics import TargetError
from exporter.built import Built
from exporter.compilers import Compiled
from exporter.fitting import arena_forecasts, device_arena, require_compiled, require_measured, require_predicted
from exporter.frontends import load
from exporter.pipeline import Options, build
from targets import Target, load_target
from targets.schema import Memory


@pytest.fixture(scope="module")
def built() -> Built:
    torch.manual_seed(0)
    source = load(nn.Conv2d(16, 8, 5).eval(), inputs=(torch.zeros(1, 16, 12, 12),))
    data = np.random.default_rng(0).standard_normal((4, 1, 16, 12, 12)).astype(np.float32)
    samples = open_samples([{source.inputs[0].name: array} for array in data], source.inputs, None)
    return build(source, load_target("cortex-m7"), samples, Options(refine=False, method="minmax"))


def limited(target: Target, **memory: int) -> Target:
    return target.model_copy(update={"memory": Memory(scratch=target.memory.scratch, **memory)})


def test_the_devices_scratch_is_added_to_what_the_reference_kernels_took(built: Built) -> None:
    reference, device = arena_forecasts(built.artifact, built.target)
    assert (reference.kernels, device.kernels) == ("reference", "cmsis-nn-dsp")
    assert device.head - reference.head == 2 * 2 * 5 * 5 * 16  # two columns of 16 bits
    assert device_arena(built, 10_000) == 10_000 + 1600
    assert device_arena(built, None) is None


def test_of_other_runtimes_no_arena_is_told(built: Built) -> None:
    assert arena_forecasts(built.artifact, load_target("android-arm64-cpu")) == ()


def test_what_is_told_and_what_is_measured_are_held_to_the_limit(built: Built) -> None:
    needed = arena_forecasts(built.artifact, built.target)[-1].total
    require_predicted(built.artifact, limited(built.target, sram=needed), "m")
    with pytest.raises(TargetError, match=r"1 bytes .* too much") as caught:
        require_predicted(built.artifact, limited(built.target, sram=needed - 1), "m")
    assert "scratch of CONV_2D" in caught.value.why
    small = replace(built, target=limited(built.target, sram=needed))
    require_measured(small, needed - 1600)
    with pytest.raises(TargetError):
        require_measured(small, needed - 1599)


def test_of_a_compiled_target_what_the_compiler_made_counts(built: Built) -> None:
    npu = limited(load_target("ethos-u55-128"), flash=100, sram=200)
    require_predicted(built.artifact, npu, "m")
    require_measured(replace(built, target=npu), 10**6)
    made = Compiled("vela", "5", "ethos-u55-128", {}, {}, "", figures={"flash_bytes": 100.0, "sram_bytes": 200.0})
    require_compiled([made], npu, "m")
    for name in ("flash_bytes", "sram_bytes"):
        with pytest.raises(TargetError) as caught:
            require_compiled([replace(made, figures={**made.figures, name: 201.0})], npu, "m")
        assert caught.value.code == "EW-T003"

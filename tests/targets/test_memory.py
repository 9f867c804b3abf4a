"""Fit of an artifact into a target's memory, in numbers."""

from __future__ import annotations

import pytest

from diagnostics import TargetError
from targets import check_fit, load_target, require_fit

FLASH, SRAM = 2 * 1024**2, 512 * 1024


def test_what_fits_to_the_last_byte_fits() -> None:
    target = load_target("cortex-m7")
    assert check_fit(target, FLASH, SRAM) == []
    require_fit(target, FLASH, SRAM)


def test_memory_that_is_not_limited_or_not_known_yet_is_no_problem() -> None:
    assert check_fit(load_target("x86-64-cpu"), 10**12, 10**12) == []
    assert check_fit(load_target("cortex-m7"), None, None) == []


def test_a_refusal_names_target_memory_needed_and_available() -> None:
    target = load_target("cortex-m7")
    (flash,) = check_fit(target, FLASH + 1, SRAM)
    (sram,) = check_fit(target, None, 1024 * 1024)
    assert "cortex-m7" in flash
    assert "2,097,153 bytes" in flash
    assert "2,097,152 bytes (2,048.0 KiB)" in flash
    assert "1 bytes" in flash
    assert "1,048,576 bytes (1,024.0 KiB)" in sram
    assert "524,288 bytes (512.0 KiB)" in sram


def test_require_fit_raises_with_both() -> None:
    with pytest.raises(TargetError) as caught:
        require_fit(load_target("cortex-m7"), FLASH * 3, SRAM * 3, "the int8 model")
    error = caught.value
    assert (error.code, error.exit_status) == ("EW-T003", 4)
    assert error.what.startswith("the int8 model does not fit")
    assert "flash" in error.what
    assert "SRAM" in error.what
    assert "--prune" in error.fix

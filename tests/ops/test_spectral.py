import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_bench import assert_legalized, assert_torch_computes_it, lowered, sample, single, torch_outputs

from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.ops.spectral import fourier_matrix


def dft(shape, axis=-2, length=None, **attributes):
    given = None if length is None else np.asarray(length, np.int64)
    return single("DFT", shape, given, np.asarray(axis, np.int64), **attributes)


def stft(shape=(2, 40, 1), step=4, window=None, length=None, onesided=1):
    size = None if length is None else np.asarray(length, np.int64)
    return single("STFT", shape, np.asarray(step, np.int64), window, size, onesided=onesided)


FORMS = {
    "real": dft((2, 10, 1)),
    "complex": dft((2, 10, 2)),
    "another axis": dft((2, 6, 5, 2), axis=1),
    "first axis": dft((6, 5, 1), axis=0),
    "half": dft((2, 9, 1), onesided=1),
    "longer": dft((2, 10, 2), length=16),
    "shorter": dft((2, 10, 1), length=7, onesided=1),
    "back": dft((2, 10, 2), inverse=1),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_transform_is_a_product_with_a_matrix(name):
    model = FORMS[name]
    assert_torch_computes_it(model, atol=1e-4)
    assert ("MatMul" in (left := assert_legalized(model, atol=1e-4))) or "Gemm" in left
    assert max(lowered(model).errors.values()) < 1e-4


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_the_matrix_is_numpys_transform(size, length, inverse):
    """Input shorter than the transform is padded with zeros, longer is cut; numpy does the same."""
    x = np.random.default_rng(size).normal(size=(size, 2))
    wanted = (np.fft.ifft if inverse else np.fft.fft)(x[:, 0] + 1j * x[:, 1], length)
    found = np.einsum("jc,jckd->kd", x, fourier_matrix(size, length, length, inverse=inverse))
    np.testing.assert_allclose(found, np.stack([wanted.real, wanted.imag], -1), atol=1e-10)


@pytest.mark.parametrize("length", [1, 2, 9, 10])
def test_a_real_signal_comes_back_from_half_its_spectrum(length):
    model = dft((3, length // 2 + 1, 2), length=length, inverse=1, onesided=1)
    feed = sample(model)
    spectrum = feed["x0"][..., 0] + 1j * feed["x0"][..., 1]
    wanted = np.fft.irfft(spectrum, length)[..., None]
    np.testing.assert_allclose(torch_outputs(model, feed)[0], wanted, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        stft(length=8),
        stft(window=np.hanning(9).astype(np.float32)),
        stft((1, 33, 1), step=3, window=np.hanning(8).astype(np.float32), length=8),
        stft((2, 40, 1), length=8, onesided=0),
        stft((2, 40, 2), length=8, onesided=0),
    ],
    ids=["plain", "window", "both", "whole", "complex"],
)
def test_frames_are_a_convolution(model):
    feed = sample(model)
    assert_torch_computes_it(model, feed, atol=1e-4)
    assert "Conv" in assert_legalized(model, feed=feed, atol=1e-4)
    found = lowered(model)
    assert ("CONV_2D", 1) in found.operators
    assert max(found.errors.values()) < 1e-4


def test_a_computed_window_is_refused():
    (refused,) = unsupported(legalize(stft(window=(8,), length=8), "tflite"), "lower")
    assert refused.reason == "the window of STFT is computed; only a constant is supported"

from math import erf

import numpy as np
from exact_bench import computes


def test_the_error_function_is_right_to_the_last_digits():
    x = np.concatenate([np.linspace(-5, 5, 2001), [0, 1e-30, 1e-7, -3.92, 3.92, 50, np.inf, -np.inf, np.nan]]).astype(np.float32)
    exact = np.array([erf(value) for value in x], np.float32)
    names = computes("Erf", x, wanted=exact, rtol=5e-7)
    assert names.count("DIV") == 1

import numpy as np
import pytest
from op_bench import assert_legalized, assert_torch_computes_it, lowered, node_of, single

from exporter.ops.base import Channels, operator_of


def col2im(rows, columns, image, block, **attributes):
    sizes = (np.asarray(image, np.int64), np.asarray(block, np.int64))
    return single("Col2Im", (2, rows, columns), *sizes, **attributes)


FORMS = {
    "overlapping": col2im(8, 12, (4, 5), (2, 2)),
    "strides": col2im(9, 4, (5, 5), (3, 3), strides=[2, 2]),
    "a rest": col2im(9, 4, (6, 6), (3, 3), strides=[2, 2]),
    "pads": col2im(10, 21, (3, 5), (1, 5), pads=[0, 1, 0, 5]),
    "dilations": col2im(4, 5, (6, 6), (2, 2), dilations=[1, 5]),
    "one axis": col2im(6, 4, (6,), (3,)),
    "volume": col2im(10, 12, (3, 4, 5), (1, 1, 5)),
}


@pytest.mark.parametrize("name", FORMS)
def test_it_is_a_transposed_convolution(name):
    model = FORMS[name]
    assert_torch_computes_it(model)
    assert "ConvTranspose" in assert_legalized(model)
    assert max(lowered(model).errors.values()) < 1e-5


def test_the_rows_of_a_block_are_cut_together():
    node = node_of(FORMS["overlapping"])
    assert operator_of(node).couple(node).ties == ((Channels("in", 0, 1, 2, repeat=4), Channels("out", 0, 1, 2)),)

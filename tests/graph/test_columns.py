"""An output's parts: what the last concatenations join, through everything that only moves it."""

import numpy as np
from small_graphs import graph, run

from exporter.graph.columns import Columns, by_columns, column_groups


def parts(body: str, outputs: str, inputs: str = "float[1,4,6] x, float[1,3,6] z", **weights):
    model = graph(body, inputs=inputs, outputs=outputs, **weights)
    found = column_groups(model)
    by_columns(run(model), found)  # every part is there
    return [part.name for part in found]


def test_branches_of_the_last_concatenation():
    assert parts("a = Relu(x) b = Sigmoid(z) y = Concat<axis=1>(a, b)", "float[1,7,6] y") == ["y[:, 0:4]", "y[:, 4:7]"]


def test_a_transpose_and_reshapes_are_followed():
    body = """a = Relu(x) b = Sigmoid(z) c = Concat<axis=1>(a, b) d = Transpose<perm=[0,2,1]>(c) e = Reshape(d, s)
    y = Squeeze(e, t)"""
    found = parts(body, "float[6,7] y", s=np.int64([1, 1, 6, 7]), t=np.int64([0, 1]))
    assert found == ["y[:, 0:4]", "y[:, 4:7]"]


def test_columns_of_a_pyramid_count_and_its_levels_do_not():
    level = "p{0} = Relu(x{0}) q{0} = Sigmoid(x{0}) c{0} = Concat<axis=1>(p{0}, q{0}) r{0} = Reshape(c{0}, s) "
    body = level.format(1) + level.format(2) + "j = Concat<axis=2>(r1, r2) y = Transpose<perm=[0,2,1]>(j)"
    found = parts(body, "float[1,32,4] y", "float[1,2,4,4] x1, float[1,2,4,4] x2", s=np.int64([1, 4, 16]))
    assert found == ["y[:, :, 0:2]", "y[:, :, 2:4]"]


def test_outputs_of_one_piece_have_no_parts():
    assert parts("c = Concat<axis=1>(x, z) y = Relu(c)", "float[1,7,6] y") == []
    assert parts("a = Relu(x) y = Concat<axis=1>(a, a)", "float[1,8,6] y") == []
    assert parts("y = Identity(x) w = Relu(z)", "float[1,4,6] y, float[1,3,6] w") == []


def test_more_parts_than_anyone_tells_apart_are_none():
    names = [f"a{number}" for number in range(40)]
    body = " ".join(f"{name} = Relu(x)" for name in names) + f" y = Concat<axis=1>({', '.join(names)})"
    assert parts(body, "float[1,160,6] y") == []


def test_parts_cover_an_output():
    array = np.arange(24).reshape(2, 4, 3)
    columns = [Columns("y", 1, 0, 3), Columns("y", 1, 3, 4), Columns("absent", 0, 0, 1)]
    found = by_columns({"y": array, "w": array}, columns)
    assert list(found) == ["y[:, 0:3]", "y[:, 3:4]", "w"]
    np.testing.assert_array_equal(np.concatenate([found["y[:, 0:3]"], found["y[:, 3:4]"]], axis=1), array)

"""What is joined and cut apart again is not joined; where the whole is read, or nothing is left out, all stays."""

import numpy as np
import pytest
from small_graphs import assert_same, graph, kinds

from exporter.graph.legalize import legalize

LEVELS = """p1 = Concat<axis=1>(a1, b1) r1 = Reshape(p1, s) p2 = Concat<axis=1>(a2, b2) r2 = Reshape(p2, s)
j = Concat<axis=2>(r1, r2) t = Transpose<perm=[0,2,1]>(j) """
IMAGES = "float[1,4,3,3] a1, float[1,2,3,3] b1, float[1,4,3,3] a2, float[1,2,3,3] b2"


def legal(body: str, outputs: str, inputs: str = IMAGES, **constants):
    given = {"s": np.int64([1, 6, 9]), "two": np.int64([2]), "zero": np.int64([0]), "four": np.int64([4]), "six": np.int64([6])}
    used = {name: array for name, array in {**given, **constants}.items() if f"{name})" in body or f"{name}," in body}
    model = graph(body, inputs=inputs, outputs=outputs, **used)
    after = legalize(model, "onnx")
    assert_same(model, after, relative=0)
    return after


def test_heads_of_a_pyramid_are_taken_apart():
    body = LEVELS + "boxes = Slice(t, zero, four, two) scores = Slice(t, four, six, two) y = Relu(boxes) z = Sigmoid(scores)"
    after = legal(body, "float[1,18,4] y, float[1,18,2] z")
    assert "Slice" not in kinds(after)
    assert kinds(after).count("Concat") == 2
    joined = [{value.name for value in node.inputs} for node in after.graph if node.op_type == "Concat"]
    assert not joined[0] & joined[1]


def test_a_split_at_the_joint_is_nothing():
    body = "c = Concat<axis=1>(a1, b1) p, q = Split<axis=1>(c, sizes) y = Relu(p) z = Relu(q)"
    assert kinds(legal(body, "float[1,4,3,3] y, float[1,2,3,3] z", sizes=np.int64([4, 2]))) == ["Relu", "Relu"]


def test_a_cut_beside_the_joint_takes_a_part_of_each():
    body = "c = Concat<axis=1>(a1, b1, a2) p, q = Split<axis=1>(c, sizes) y = Relu(p) z = Relu(q)"
    after = legal(body, "float[1,5,3,3] y, float[1,5,3,3] z", sizes=np.int64([5, 5]))
    assert kinds(after).count("Concat") == 2
    assert kinds(after).count("Slice") == 2


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (LEVELS + "boxes = Slice(t, zero, four, two) y = Relu(boxes) z = Sigmoid(t)", "float[1,18,4] y, float[1,18,6] z"),
        ("c = Concat<axis=1>(a1, b1) d = Slice(c, zero, two, two) y = Relu(d)", "float[1,6,2,3] y"),
    ],
    ids=["the whole is read", "a bit of each"],
)
def test_what_is_needed_whole_stays(body: str, outputs: str):
    joints = body.count("Concat")
    assert kinds(legal(body, outputs)).count("Concat") == joints


def test_a_level_that_is_read_whole_is_cut_behind_its_joint():
    body = LEVELS + "boxes = Slice(t, zero, four, two) y = Relu(boxes) z = Sigmoid(p1)"
    after = legal(body, "float[1,18,4] y, float[1,6,3,3] z")
    assert kinds(after).count("Concat") == 2
    assert kinds(after).count("Slice") == 1


def test_a_reshape_across_the_cut_keeps_it_behind():
    body = "c = Concat<axis=1>(a1, b1) r = Reshape(c, flat) d = Slice(r, zero, four, one) y = Relu(d)"
    after = legal(body, "float[1,4] y", flat=np.int64([1, 54]), one=np.int64([1]))
    assert kinds(after) == ["Concat", "Reshape", "Slice", "Relu"]

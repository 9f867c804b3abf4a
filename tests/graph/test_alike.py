"""What is said alike of many nodes is said once, and nothing is left out but names."""

from hypothesis import given
from hypothesis import strategies as st

from diagnostics import ModelError
from exporter.graph.alike import alike, named


def test_nodes_of_one_operator_with_the_same_reasons_are_one_line() -> None:
    said = [
        ("a", "Sqrt", ("no kernel", "no float")),
        ("b", "Div", ("no kernel",)),
        ("c", "Sqrt", ("no kernel", "no float")),
        ("d", "Sqrt", ("too wide",)),
        ("e", "Sqrt", ("no kernel", "no float")),
        ("f", "Sqrt", ("no kernel", "no float")),
    ]
    assert alike(said) == (
        "4 Sqrt (a, c and 2 more): no kernel; no float",
        "b (Div): no kernel",
        "d (Sqrt): too wide",
    )
    assert alike([("a", "", ("no",)), ("b", "", ("no",))]) == ("a, b: no",)


@given(st.lists(st.tuples(st.text("xyz", min_size=1), st.sampled_from(["Add", "Mul"]), st.sampled_from([("r",), ("s", "t")]))))
def test_every_node_is_counted_and_the_first_is_named(entries: list[tuple[str, str, tuple[str, ...]]]) -> None:
    lines = alike(entries)
    assert len(lines) == len({(kind, reasons) for _, kind, reasons in entries})
    assert sum(int(line.split()[0]) if line.split()[0].isdigit() else 1 for line in lines) == len(entries)
    assert all(any(line.find(name) >= 0 and kind in line for line in lines) for name, kind, _ in entries[:1])


def test_few_names_are_all_named() -> None:
    assert named(("a", "b", "c")) == "a, b, c"
    assert named(("a", "b", "c", "d")) == "a, b and 2 more"


def test_an_error_of_many_lines_is_indented_under_its_label() -> None:
    error = ModelError("EW-M007", "no", where="here", why="first\nsecond", fix="do\nthis")
    assert str(error) == "EW-M007: no\n  where: here\n  why:\n    first\n    second\n  fix:\n    do\n    this"

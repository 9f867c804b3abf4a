"""Names of machines: what is taken, what is refused and why, and that nothing of them reads as an option of ssh."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnostics import UsageError
from exporter.runtimes.places import Remote, base_name, parse_remote, placed
from exporter.runtimes.registry import runtime_of


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("ssh://pi5", Remote("pi5")),
        ("ssh://pi@pi5.local:2222", Remote("pi5.local", "pi", 2222)),
        ("ssh://pi@10.0.0.7/?python=/opt/venv/bin/python", Remote("10.0.0.7", "pi", None, "/opt/venv/bin/python")),
        ("ssh://pi@[fe80::1]:22", Remote("fe80::1", "pi", 22)),
    ],
)
def test_machines(text: str, remote: Remote) -> None:
    assert parse_remote(text) == remote
    assert parse_remote(str(remote)) == Remote(remote.host, remote.user, remote.port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pi5",
        "http://pi5",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://-l@pi5",
        "ssh://pi5:port",
        "ssh://pi5:99999",
        "ssh://pi5/home",
        "ssh://pi5#a",
        "ssh://pi5?python=",
        "ssh://pi5?key=x",
        "ssh://pi5?python",
        "ssh://a b",
        "ssh://pi5;reboot",
        "ssh://$(reboot)@pi5",
    ],
)
def test_what_is_no_machine(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_remote(text)
    assert caught.value.code == "EW-U001"


@pytest.mark.parametrize("text", ["ssh://pi:secret@pi5", "ssh://pi:secret@pi5:port", "ssh://pi:secret@pi5/x"])
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_remote(text)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_a_machine_or_a_usage_error(text: str) -> None:
    try:
        found = parse_remote(f"ssh://{text}")
    except UsageError:
        return
    assert not found.host.startswith("-")
    assert found.user is None or not found.user.startswith("-")


def test_a_runtime_at_a_place_keeps_its_kernels_and_its_release() -> None:
    found = runtime_of("litert-ref==1.2.0@ssh://pi@pi5:22")
    assert (found.options, found.version, found.remote) == ({"kernels": "ref"}, "1.2.0", Remote("pi5", "pi", 22))
    assert base_name(found.name) == "litert-ref"
    assert placed("litert-ref", "ssh://pi5") == "litert-ref@ssh://pi5"
    assert placed("litert-ref", None) == "litert-ref"
    with pytest.raises(UsageError, match="says where it runs"):
        placed(found.name, "ssh://pi5")
    with pytest.raises(UsageError, match="there is no place"):
        runtime_of("litert-ref@")

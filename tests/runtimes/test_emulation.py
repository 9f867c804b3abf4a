"""Emulated cores: what a name means, what is said where something is missing, and the pieces of an environment. Nothing is emulated here."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from diagnostics import RuntimeFailure, UsageError
from exporter.cli.main import main
from exporter.runtimes import available, emulation, install, open_session
from exporter.runtimes.debian import fetch_packages, unpack
from exporter.runtimes.emulation import CORES, launcher, write_cores
from exporter.runtimes.environments import RECORD, parse_pin, python_in
from exporter.runtimes.install import add_environment
from exporter.runtimes.probe import probe_model
from exporter.runtimes.registry import runtime_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path / "cache"))


def stand_in(pin: str = "ai-edge-litert==2.3.0") -> Path:
    folder = parse_pin(pin, "aarch64").folder
    python = python_in(folder, "aarch64")
    python.parent.mkdir(parents=True)
    python.touch()
    package, version = pin.split("==")
    (folder / RECORD).write_text(
        json.dumps({"package": package, "version": version, "platform": "aarch64", "python": "3.11.2", "wheels": {}})
    )
    return folder


def with_emulator(monkeypatch: pytest.MonkeyPatch, program: str | None) -> None:
    for module in (emulation, install):
        monkeypatch.setattr(module, "emulator", lambda: program)
    monkeypatch.setattr("exporter.runtimes.registry.emulator", lambda: program)


def test_a_runtime_on_a_core_emulates_and_has_patience() -> None:
    found, plain = runtime_of("litert-xnnpack==2.3.0@cortex-a53"), runtime_of("litert-xnnpack")
    assert (found.core, found.emulates, found.version) == (CORES["cortex-a53"], True, "2.3.0")
    assert found.patience_s > plain.patience_s
    assert not plain.emulates


@pytest.mark.parametrize("name", ["litert-xnnpack@cortex-z1", "litert-xnnpack@", "litert-xnnpack@Cortex-A76"])
def test_an_unknown_core_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="there is no place") as caught:
        runtime_of(name)
    assert all(core in caught.value.fix for core in CORES)


@pytest.mark.parametrize("name", ["tflite-micro@cortex-a76", "openvino@cortex-a76", "qnn-htp@cortex-a76"])
def test_runtimes_without_environments_do_not_run_on_cores(name: str) -> None:
    with pytest.raises(UsageError, match="does not run on an emulated core"):
        runtime_of(name)


def test_what_is_missing_is_said_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_emulator(monkeypatch, None)
    missing = available("litert-xnnpack@cortex-a76")
    assert not missing.present
    assert "edgewright runtimes add ai-edge-litert==" in missing.how_to_get
    assert missing.how_to_get.endswith("--platform aarch64; apt-get install qemu-user-static")
    other = available("tflite-runtime@cortex-a72").how_to_get
    assert other == "edgewright runtimes add tflite-runtime==2.14.0 --platform aarch64; apt-get install qemu-user-static"
    stand_in()
    assert not available("litert-xnnpack@cortex-a76").present  # without the emulator it is of no use
    with_emulator(monkeypatch, "/usr/bin/qemu-aarch64")
    assert available("litert-xnnpack@cortex-a76").version == "2.3.0"
    assert available("litert-xnnpack==2.3.0@armv9").present
    assert not available("litert-xnnpack==2.2.0@armv9").present
    suffix, content = probe_model("onnxruntime")
    (tmp_path / f"m{suffix}").write_bytes(content)
    with pytest.raises(RuntimeFailure, match="is not installed") as caught:
        open_session("onnxruntime@cortex-a76", tmp_path / f"m{suffix}")
    assert (caught.value.code, "--platform aarch64" in caught.value.fix) == ("EW-R001", True)


def test_doctor_lists_an_emulated_runtime(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_emulator(monkeypatch, "/usr/bin/qemu-aarch64")
    stand_in()
    assert main(["doctor", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["litert-xnnpack==2.3.0@cortex-a76"]["present"]
    assert "Cortex-A76" in found["litert-xnnpack==2.3.0@cortex-a76"]["purpose"]
    assert main(["runtimes", "list", "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)["environments"]
    assert entry["platform"] == "aarch64"
    assert entry["runtimes"] == [f"{name}==2.3.0@cortex-a76" for name in ("litert-ref", "litert-builtin", "litert-xnnpack")]
    assert all(available(name).present for name in entry["runtimes"])


def test_nothing_is_fetched_without_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    with_emulator(monkeypatch, None)
    with pytest.raises(RuntimeFailure, match="qemu") as caught:
        add_environment("ai-edge-litert==2.3.0", platform="aarch64")
    assert (caught.value.code, caught.value.fix) == ("EW-R001", "apt-get install qemu-user-static")
    with pytest.raises(UsageError, match="an interpreter of its own"):
        add_environment("ai-edge-litert==2.3.0", platform="aarch64", python="python3")


def test_a_machine_without_debians_tools_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeFailure, match="no Python for aarch64") as caught:
        fetch_packages(tmp_path, tmp_path / "packages", lambda command, what: "")
    assert "--find-links" in caught.value.fix


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed: apt-get install dpkg")
def test_packages_become_one_file_system(tmp_path: Path) -> None:
    def run(command: object, what: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # type: ignore[call-overload]

    packages = []
    for name, path in (("a", "usr/bin/python3.11"), ("b", "usr/lib/ld.so"), ("b2", "usr/share/doc/x")):
        tree = tmp_path / name
        (tree / path).parent.mkdir(parents=True)
        (tree / path).write_text(name)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN" / "control").write_text(
            f"Package: {name}x\nVersion: 1\nArchitecture: arm64\nMaintainer: x <x@x>\nDescription: x\n"
        )
        packages.append(tmp_path / f"{name}.deb")
        run(["dpkg-deb", "--build", tree, packages[-1]], "")
    folder = tmp_path / "environment"
    folder.mkdir()
    unpack(packages, folder / "root", run)
    write_cores(folder)
    assert not (folder / "root/usr/share/doc").exists()
    for core in CORES.values():
        prefix = folder / "cores" / core.name
        assert (prefix / "usr/bin/python3.11").read_text() == "a"
        assert (prefix / "lib/ld.so").read_text() == "b"  # merged into /usr
        cpuinfo = (prefix / "proc/cpuinfo").read_text()
        assert cpuinfo.count("processor\t") == 4
        assert f"CPU part\t: {core.part}\n" in cpuinfo
    command = launcher(folder, CORES["armv9"])
    assert command[1:3] == ["-cpu", "max,pauth-impdef=on,sme=off"]
    assert command[-2:] == [str(folder / "root/usr/bin/python3.11"), "-S"]

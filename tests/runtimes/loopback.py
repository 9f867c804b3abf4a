"""A real sshd on this machine's loopback: its own key, port and configuration in a folder, ended with the fixture."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin")
SEPARATION = Path("/run/sshd")  # where sshd, started by root, locks its unprivileged half in


def absent() -> str:
    """Why no sshd can be started here; "" where one can."""
    if SSHD is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        return "OpenSSH's server and client are not installed: apt-get install openssh-server openssh-client"
    return f"sshd wants the folder {SEPARATION}" if os.geteuid() == 0 and not SEPARATION.is_dir() else ""


class Loopback:
    """`url` reaches the machine; `client` is the ssh command that trusts and may enter it, for $EDGEWRIGHT_SSH."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"ssh://{getuser()}@127.0.0.1:{port}"
        self.client = f"ssh -F {folder / 'client.conf'}"


@contextmanager
def sshd(folder: Path) -> Iterator[Loopback]:
    if reason := absent():
        pytest.skip(reason)
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "tmp").mkdir()
    (folder / "server.conf").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nAuthorizedKeysFile {folder / 'authorized'}\n"
        f"PermitRootLogin prohibit-password\nSetEnv TMPDIR={folder / 'tmp'}\n"
    )
    (folder / "client.conf").write_text(
        f"IdentityFile {folder / 'user'}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {folder / 'known'}\n"
        "GlobalKnownHostsFile none\nStrictHostKeyChecking yes\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "server.conf"], stderr=log, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    pytest.fail(f"sshd ended: {(folder / 'log').read_text()}")
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield Loopback(folder, port)
        finally:
            process.terminate()
            process.wait(timeout=10)

"""Where a runtime runs: behind ``@`` in its name stands another machine, or an emulated core.

``litert-xnnpack@ssh://pi@192.168.1.7``, ``litert-xnnpack@cortex-a76``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from diagnostics import UsageError
from exporter.runtimes.emulation import CORES, Core

__all__ = ["Remote", "base_name", "parse_place", "parse_remote", "placed"]

SSH: Final = "ssh://"
# Neither may begin with a hyphen: ssh would take it for an option.
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9_.-]+)?")


@dataclass(frozen=True)
class Remote:
    """A machine that ssh reaches.

    Attributes:
        host: name or address, or an alias of the user's own ssh configuration.
        user, port: None: what that configuration says.
        python: the interpreter there, a path or what the shell finds.
    """

    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user is not None else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SSH}{user}{host}" + (f":{self.port}" if self.port is not None else "")


def parse_remote(text: str) -> Remote:
    """``"ssh://[user@]host[:port][?python=PATH]"`` as a machine. Raises UsageError EW-U001 for anything else."""
    try:
        parts = urlsplit(text)
        user, host, port = parts.username, parts.hostname, parts.port
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise _refused(text, str(error)) from None
    if parts.scheme != "ssh" or not host or not _HOST.fullmatch(host) or (user is not None and not _USER.fullmatch(user)):
        raise _refused(text, "it names no host that ssh could take")
    if parts.password is not None:
        raise _refused(text, "a password does not belong on a command line: ssh takes keys")
    if parts.path not in ("", "/") or parts.fragment:
        raise _refused(text, f"{parts.path or parts.fragment!r} stands behind the host")
    if unknown := sorted(set(query) - {"python"}):
        raise _refused(text, f"there is no option {unknown[0]!r}, only python")
    if not query.get("python", "python3"):
        raise _refused(text, "python= names no interpreter")
    return Remote(host, user, port, query.get("python", "python3"))


def parse_place(text: str) -> Remote | Core:
    """A machine or an emulated core. Raises UsageError EW-U001 where it is neither."""
    if text in CORES:
        return CORES[text]
    if not text.startswith(SSH):
        cores = ", ".join(CORES)
        raise UsageError("EW-U001", f"there is no place {text!r}", fix=f"give ssh://[user@]host, or an emulated core: {cores}")
    return parse_remote(text)


def base_name(runtime: str) -> str:
    """A runtime's name without version and place: ``"litert-ref==2.0.3@ssh://pi"`` -> ``"litert-ref"``."""
    return runtime.partition("@")[0].partition("==")[0]


def placed(runtime: str, place: str | None) -> str:
    """The name of a runtime at a place (None: as it is). Raises UsageError EW-U002 where the name has a place already."""
    if place is None:
        return runtime
    if "@" in runtime:
        raise UsageError("EW-U002", f"{runtime} says where it runs, and so does {place}", fix="give one of them")
    return f"{runtime}@{place}"


def _refused(text: str, why: str) -> UsageError:
    shown = re.sub(r":[^:@/]*@", "@", text)  # no password into a log
    return UsageError(
        "EW-U001",
        f"{shown!r} is no machine that ssh reaches",
        why=why,
        fix="ssh://[user@]host[:port][?python=PATH], ssh://pi@pi5.local",
    )

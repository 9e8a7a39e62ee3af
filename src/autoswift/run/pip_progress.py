"""What pip is doing, from the lines that it prints. Only the standard library: the Makefile's script uses it too."""

from __future__ import annotations

import re
from collections.abc import Callable

from autoswift.tables import text

_REQUIREMENT = re.compile(r"^(?:Collecting|Processing|Requirement already satisfied:) (\S+)")
_RAW = re.compile(r"^Progress (\d+) of (\d+)")
_BAR = re.compile(r"^\s+Downloading (\S+)")
_BUILD = re.compile(r"^\s*Building wheels? for (?:collected packages: )?([\w.-]+)")
_NAME = re.compile(r"^([A-Za-z0-9][\w.]*(?:-[A-Za-z][\w.]*)*)")
_BIG = 20_000_000
"""Bytes from which a download is named by its megabytes: below, it is over before a reader looks."""


class PipProgress:
    """Turns pip's output into one line that says where the installation is.

    Args:
        total: how many packages there will be.
        language: of the lines, `zh` or `en`.
        installed: counts the packages that are in place (pip is silent while it unpacks).
    """

    def __init__(self, total: int, language: str, installed: Callable[[], int]) -> None:
        self.total, self.language = total, language
        self._installed = installed
        self._seen: set[str] = set()
        self._name = ""
        self._unpacking = False
        self._line = ""

    def feed(self, line: str) -> None:
        """Takes one line of pip's output."""
        if match := _REQUIREMENT.match(line):
            self._name = _short(match[1])
            self._seen.add(self._name.lower())
            self._say("setup.collecting", done=min(len(self._seen), self.total), total=self.total, name=self._name)
        elif match := _RAW.match(line):
            done, size = int(match[1]), int(match[2])
            if size >= _BIG:
                self._say("setup.downloading", name=self._name, done=done // 10**6, size=size // 10**6)
        elif match := _BAR.match(line):
            self._name = _short(match[1])
        elif match := _BUILD.match(line):
            self._say("setup.building", name=match[1])
        elif line.startswith("Installing collected packages"):
            self._unpacking = True

    def line(self) -> str:
        """Where it is now."""
        if self._unpacking:
            self._say("setup.unpacking", done=min(self._installed(), self.total), total=self.total)
        return self._line

    def _say(self, key: str, **values: object) -> None:
        self._line = text(key, self.language, **values)


def _short(requirement: str) -> str:
    """The package's name in a requirement, a file name or a path."""
    match = _NAME.match(requirement.rsplit("/", 1)[-1])
    return match[1] if match else requirement

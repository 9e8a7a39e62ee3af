"""A window that moves over the text of a JSON document, so that one of any length needs little memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from autoswift.understand.readers.jsonlines import Decoder

_SPACE = re.compile(r"[ \t\n\r\ufeff\x1a]*")
_MARK = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
NEAR_END = 16
"""Characters before the window's end within which a fault may only mean that the rest is not there yet: the longest
word of JSON has nine, an escape six."""


class Cursor:
    """A window that moves over the text of a document.

    Attributes:
        line: that the place to be read next is on, after a call of `look`.
    """

    def __init__(self, pieces: Iterator[str], limit: int) -> None:
        self._pieces, self._limit = pieces, limit
        self.buffer, self.at, self._counted, self.line, self.final = "", 0, 0, 1, False

    def more(self) -> bool:
        """Fetches at least as much as is there, so that no text is looked at more than twice; False at the end."""
        self.settle()
        parts = [self.buffer[self.at :]]
        there, wanted = len(parts[0]), 2 * len(parts[0])
        if there > self._limit:
            raise json.JSONDecodeError("Value too long", self.buffer[self.at : self.at + 1], 0)
        self.at = self._counted = 0
        while not self.final and there <= wanted:
            piece = next(self._pieces, None)
            if piece is None:
                self.final = True
            else:
                parts.append(piece)
                there += len(piece)
        grown = len(parts) > 1
        self.buffer = "".join(parts)
        return grown

    def settle(self) -> int:
        """The line of the present place."""
        self.line += self.buffer.count("\n", self._counted, self.at)
        self._counted = self.at
        return self.line

    def look(self) -> str:
        """The next character that is no white space, or nothing at the end."""
        while True:
            found = _SPACE.match(self.buffer, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.more():
                return ""

    def go(self, at: int, line: int) -> None:
        """Back to a place of a window that has not moved since."""
        self.at = self._counted = at
        self.line = line

    def take(self) -> None:
        """Passes over one character."""
        self.at += 1

    def value(self, decoder: Decoder) -> tuple[Any, str]:
        """The value at the present place, and its text.

        Raises:
            json.JSONDecodeError: when it is none; the place is where it was.
            RecursionError: when it is nested too deep.
        """
        while True:
            decoder.doubled = decoder.infinite = False
            try:
                value, end = decoder.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as exc:
                early = exc.pos >= len(self.buffer) - NEAR_END or exc.msg.startswith("Unterminated string")
                if early and not self.final:
                    self.more()  # the place moves with the window: also at the text's end all is looked at again
                    continue
                raise
            if end == len(self.buffer) and not self.final:
                self.more()  # a number may go on
                continue
            text = self.buffer[self.at : end]
            self.at = end
            return value, text

    def find(self, pattern: re.Pattern[str], start: int) -> bool:
        """Moves to the next match of a short pattern at or after `start`; False, and to the end, when there is none."""
        self.at = start
        while (found := pattern.search(self.buffer, self.at)) is None:
            self.at = max(self.at, len(self.buffer) - 200)  # a match may lie across the window's end
            if not self.more():
                self.at = len(self.buffer)
                return False
        self.at = found.start(1)
        return True

    def skip_value(self, depth: int = 0) -> None:
        """Passes over a value by its brackets alone, however deep; with `depth`, from inside that many brackets."""
        while self.look():
            found = _MARK.search(self.buffer, self.at)
            if found is None or (found.end() == len(self.buffer) and not self.final):
                if not self.more():
                    self.at = len(self.buffer)
                    return
                continue
            self.at = found.end()
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
            if depth <= 0:
                return

    def fault_line(self, exc: json.JSONDecodeError) -> int:
        """The line of a fault that `value` met."""
        return self.settle() + self.buffer.count("\n", self.at, exc.pos)

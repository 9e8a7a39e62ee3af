"""The text of a file as a stream: decoded piece by piece, with plain line ends, each fault with its line."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator

from autoswift.understand import encoding
from autoswift.understand.readers.base import Job, Stream

SAMPLE = 2**20
"""Bytes that encoding and kind are judged by, and of one piece: thousands of rows, read in a few milliseconds."""
NULL_SHARE = 0.01
"""A stray NUL is dropped; one byte in a hundred is a file with holes (a broken download)."""
_HTML = re.compile(
    r"\s*(?:<!--.{0,500}?-->\s*)?(?:<\?xml[^>]*>\s*)?(?:<!doctype html|<html|<head|<body|<error>)",
    re.IGNORECASE | re.DOTALL,
)
_POINTER = "version https://git-lfs"
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")
_LINE_END = re.compile(r"\r\n|\r|\n")
_ZEROS_ARE_NULS = ("utf-8", "utf-8-sig", "gb18030", "big5", "cp1252")


class TextStream:
    """A text file.

    Attributes:
        head: its beginning, at most about `SAMPLE` characters. whole: whether that is all of it.
    """

    def __init__(self, stream: Stream, job: Job) -> None:
        """Judges the encoding and looks at the beginning.

        Raises:
            DataError: null_bytes, binary_garbage, html_error_page, empty_file.
        """
        sample = stream.peek(SAMPLE)
        self._stream, self._job = stream, job
        self.encoding = encoding.sniff(sample, whole=len(sample) < SAMPLE)
        job.encoding = self.encoding
        self._line, self._broken, self._zeros, self._plain = 1, 0, 0, True
        self._pieces = self._decoded()
        self.head = next(self._pieces, "")
        self.whole = len(sample) < SAMPLE
        self._judge()

    def _judge(self) -> None:
        job = self._job
        if not self.head.strip(" \t\n\ufeff") and self.whole:
            raise job.error("empty_file")
        if encoding.is_binary(self.head):
            raise job.error("binary_garbage", where={"line": 1}, found="data")
        if _HTML.match(self.head[:2000]):
            raise job.error("html_error_page", where={"line": 1})
        if self.head.startswith(_POINTER):
            raise job.error("lfs_pointer", where={"line": 1})
        if self.encoding not in ("utf-8", "utf-8-sig"):
            job.add("encoding_found", "flag", encoding=self.encoding)

    def pieces(self) -> Iterator[str]:
        """The text from its beginning. To be called once."""
        yield self.head
        self.head = ""
        yield from self._pieces

    def lines(self) -> Iterator[list[str]]:
        """The lines, without their ends, a list of them for each piece. To be called once."""
        rest: list[str] = []
        length = number = 0
        for piece in self.pieces():
            lines = piece.split("\n")
            if len(lines) == 1:
                length += len(piece)
                if length > self._job.limits.record:
                    rest.clear()  # the line is skipped to its end, and counted when that is reached
                else:
                    rest.append(piece)
                continue
            if length > self._job.limits.record:
                lines[0] = ""
                rest.clear()
                self._too_long(number + 1)
            number, length = number + len(lines) - 1, len(lines[-1])
            if rest:
                lines[0] = "".join(rest) + lines[0]
            rest = [lines.pop()]
            yield lines
        if length > self._job.limits.record:
            self._too_long(number + 1)
        elif last := "".join(rest):
            yield [last]

    def _too_long(self, line: int) -> None:
        where = {"line": line, "row": self._job.row + 1}
        self._job.add("too_long_line", "warn", where=where, limit=self._job.limits.record)
        self._job.lose("too_long_line")

    def _decoded(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self.encoding)()
        newlines = io.IncrementalNewlineDecoder(None, True)
        first, final = True, False
        while not final:
            data = self._stream.read(SAMPLE)
            final = not data
            try:
                text = decoder.decode(data, final)
            except UnicodeDecodeError as exc:
                decoder, text = self._mend(exc, final)
            if self._plain and not text.isascii():
                self._plain = False
            text = newlines.decode(text, final)
            if first:
                text = text.removeprefix("\ufeff")
            if "\x00" in text and self.encoding in _ZEROS_ARE_NULS:
                text = self._without_nuls(text, first)
            if text or first:
                yield text
            self._line += text.count("\n")
            first = False
        if self._broken:
            self._job.add(
                "encoding_error", "warn", where={"line": self._first}, count=self._broken, encoding=self._name
            )

    def _mend(self, exc: UnicodeDecodeError, final: bool) -> tuple[codecs.IncrementalDecoder, str]:
        """The text of a piece that cannot be decoded as it should: what is broken becomes U+FFFD and is counted.

        Where all was plain ASCII until here, the encoding was not known yet and is judged anew.
        """
        data = bytes(exc.object)
        good = data[: exc.start].decode(self.encoding, "replace")
        if self._plain and good.isascii() and self.encoding == "utf-8":
            name = encoding.sniff(data[exc.start :], whole=final)
            if name not in ("utf-8", "utf-16-le", "utf-16-be"):
                self.encoding = self._job.encoding = name
                self._job.add("encoding_found", "flag", encoding=name)
                decoder = codecs.getincrementaldecoder(name)("replace")
                return decoder, decoder.decode(data, final)
        decoder = codecs.getincrementaldecoder(self.encoding)("replace")
        text = decoder.decode(data, final)
        line = self._line + len(_LINE_END.findall(good))
        if self.encoding.startswith("utf-8") and _SURROGATE.match(data, exc.start):
            self._job.add("lone_surrogates", "warn", where={"line": line})
        else:
            there = data.count(b"\xef\xbf\xbd") if self.encoding.startswith("utf-8") else 0
            if not self._broken:
                self._first, self._name = line, self.encoding
            self._broken += max(1, text.count("\ufffd") - there)
        strict = codecs.getincrementaldecoder(self.encoding)()
        strict.setstate(decoder.getstate())
        return strict, text

    def _without_nuls(self, text: str, first: bool) -> str:
        count = text.count("\x00")
        if first and count > NULL_SHARE * len(text):
            kind = "binary_garbage" if encoding.is_binary(text.replace("\x00", "")) else "null_bytes"
            line = 1 + text.count("\n", 0, text.index("\x00"))
            raise self._job.error(kind, where={"line": line}, count=count, found="data")
        if not self._zeros:
            line = self._line + text.count("\n", 0, text.index("\x00"))
            self._job.add("null_bytes", "warn", where={"line": line}, count=count)
        self._zeros += count
        return text.replace("\x00", "")

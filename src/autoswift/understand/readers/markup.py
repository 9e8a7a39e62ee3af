"""Markdown (tables, headings that ask, sections) and subtitles."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from autoswift.understand.readers.base import Job
from autoswift.understand.readers.delimited import Table
from autoswift.understand.readers.text import TextStream
from autoswift.understand.records import Record
from autoswift.understand.turns import role_of

_RULE = re.compile(r"^\s*\|?\s*:?-{1,}:?\s*(?:\|\s*:?-{1,}:?\s*)*\|?\s*$")
_CELLS = re.compile(r"(?<!\\)\|")
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
_FENCE = re.compile(r"^\s*(?:```|~~~)")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_QUESTION = re.compile(r"^(?:Q\s*\d*|问题?\s*\d*|提问\s*\d*|Question\s*\d*)\s*[.:：、)]\s*", re.IGNORECASE)
_ANSWER = re.compile(r"^[*_]{0,2}(?:A\s*\d*|答案?\s*\d*|回答|Answer\s*\d*)\s*[:：][*_]{0,2}\s*", re.IGNORECASE)
_CUE = re.compile(r"^\s*(?:\d{1,3}:)?\d{1,2}:\d{2}[,.]\d{1,3}\s*-->\s*(?:\d{1,3}:)?\d{1,2}:\d{2}[,.]\d{1,3}")
_STYLE = re.compile(r"</?[a-zA-Z][^<>]{0,40}>|\{\\[^{}]{0,40}\}")
_HAN = re.compile(r"[\u3400-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]")
ASKED = 0.5
"""Of the headings of a level, those that must ask before headings are questions: a FAQ has some that are titles."""
BILINGUAL = 0.8
"""Of the subtitles, those with a line in each of two scripts before they are taken as translations."""


def is_rule(line: str) -> bool:
    """Whether a line is the one under a table's header."""
    return "|" in line and "-" in line and bool(_RULE.match(line))


def has_table(lines: Sequence[str]) -> bool:
    """Whether a text holds a Markdown table."""
    return any("|" in a and is_rule(b) for a, b in itertools.pairwise(lines))


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    return [_BREAK.sub("\n", c.strip().replace("\\|", "|")) for c in _CELLS.split(inner)]


def markdown(text: TextStream, job: Job) -> Iterator[Record]:
    """The records of a Markdown file: the rows of its tables; else its questions and answers; else its sections.

    Raises:
        DataError: too_large; no_such_column.
    """
    from autoswift.understand.readers import plain

    job.format = "markdown"
    lines: list[str] = []
    length = 0
    for some in text.lines():
        lines += some
        length += sum(map(len, some))
        if length > job.limits.document:
            raise job.error("too_large", size=length // 2**20, limit=job.limits.document // 2**20)
    if has_table(lines):
        yield from _tables(lines, job)
        return
    said = [s[0] for s in map(plain.speaker, lines) if s]
    level = _asking_level(lines)
    if level:
        yield from _questions(lines, level, job)
    elif {"user", "assistant"} <= set(said):
        yield from plain.dialogues(_Lines(lines), job, plain.in_blocks(lines))
    else:
        yield from _sections(lines, job)


class _Lines:
    """Lines that are there already, as a `TextStream` gives them."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def lines(self) -> Iterator[list[str]]:
        yield self._lines


def _tables(lines: list[str], job: Job) -> Iterator[Record]:
    """The rows of all tables, each under its own header."""
    table: Table | None = None
    for number, line in enumerate(lines, 1):
        following = lines[number] if number < len(lines) else ""
        if "|" in line and is_rule(following):
            table = Table(job)
            table.take_header(_cells(line), number)
        elif table is not None and "|" in line:
            if not is_rule(line) and (record := table.row(_cells(line), number)) is not None:
                yield record
        else:
            table = None


def _headings(lines: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Index, level and text of the headings outside code."""
    code = False
    for i, line in enumerate(lines):
        if _FENCE.match(line):
            code = not code
        elif not code and (found := _HEADING.match(line)):
            yield i, len(found[1]), found[2].strip("*_ ")


def _asks(title: str) -> bool:
    return title.endswith(("?", "？")) or bool(_QUESTION.match(title))


def _asking_level(lines: Sequence[str]) -> int:
    """The level of headings of which most are questions; 0 when there is none."""
    found = list(_headings(lines))
    for level in range(1, 7):
        titles = [t for _, at, t in found if at == level]
        if titles and sum(map(_asks, titles)) > ASKED * len(titles):
            return level
    return 0


def _questions(lines: list[str], level: int, job: Job) -> Iterator[Record]:
    """Headings of a level with what stands below each as its answer."""
    marks = [(i, at, t) for i, at, t in _headings(lines) if at <= level]
    for (i, at, title), after in zip(marks, [*(m[0] for m in marks[1:]), len(lines)], strict=True):
        answer = _ANSWER.sub("", "\n".join(lines[i + 1 : after]).strip())
        if at == level and (answer or _asks(title)):
            turns = [
                {"role": "user", "content": _QUESTION.sub("", title)},
                {"role": "assistant", "content": answer},
            ]
            yield _record(turns, i + 1, job)


def _sections(lines: list[str], job: Job) -> Iterator[Record]:
    """The text under each heading, with the heading; the paragraphs where there are none."""
    starts = [i for i, _, _ in _headings(lines)]
    if not starts:
        starts = [i for i, line in enumerate(lines) if line.strip() and (i == 0 or not lines[i - 1].strip())]
    elif any(x.strip() for x in lines[: starts[0]]):
        starts.insert(0, 0)
    for i, after in zip(starts, [*starts[1:], len(lines)], strict=True):
        body = "\n".join(lines[i:after]).strip()
        if "\n" in body or not _HEADING.match(lines[i]):
            yield _record(body, i + 1, job)


def _record(value: Any, line: int, job: Job) -> Record:
    job.row += 1
    return Record(value, job.file, line, job.row, job.member)


def is_subtitles(filled: Sequence[str]) -> bool:
    """Whether the first lines are those of subtitles: a time line among the first four."""
    return any(_CUE.match(line) for line in filled[:4])


def subtitles(text: TextStream, job: Job) -> Iterator[Record]:
    """One text for each subtitle; pairs of lines in two scripts become translations, named speakers dialogues.

    Raises:
        DataError: no_rows.
    """
    job.format = "srt"
    cues = list(_cues(text, job))
    two = [c for c, _ in cues if len(c) == 2 and _two_scripts(c)]
    if cues and len(two) >= BILINGUAL * len(cues):
        for lines, number in cues:
            if len(lines) == 2:
                yield _record({"source": lines[0], "target": lines[1]}, number, job)
        return
    whole = [("\n".join(lines), number) for lines, number in cues]
    roles = [role_of(t.split(":", 1)[0].split("：", 1)[0]) for t, _ in whole]
    if {"user", "assistant"} <= set(roles) and None not in roles:
        yield from _spoken(whole, job)
        return
    for body, number in whole:
        yield _record(body, number, job)


def _spoken(cues: list[tuple[str, int]], job: Job) -> Iterator[Record]:
    """Subtitles that name their speakers: each question begins a dialogue."""
    turns: list[dict[str, str]] = []
    begin = 0
    for body, number in cues:
        name, _, words = body.replace("：", ":", 1).partition(":")
        role = role_of(name) or "user"
        if role == "user" and turns and turns[-1]["role"] != "user":
            yield _record(turns, begin, job)
            turns = []
        begin = begin if turns else number
        turns.append({"role": role, "content": words.strip()})
    if turns:
        yield _record(turns, begin, job)


def _two_scripts(lines: Sequence[str]) -> bool:
    han = [bool(_HAN.search(x)) for x in lines]
    return han[0] != han[1] and bool(_LATIN.search(lines[han.index(False)]))


def _cues(text: TextStream, job: Job) -> Iterator[tuple[list[str], int]]:
    """The lines of each subtitle and the line that its time stands on."""
    cue: list[str] | None = None
    begin = number = 0
    for lines in text.lines():
        for line in lines:
            number += 1
            if _CUE.match(line):
                if cue:
                    yield _without_number(cue), begin
                cue, begin = [], number
            elif cue is not None:
                if line.strip():
                    cue.append(_STYLE.sub("", line).strip())
                elif cue:
                    yield cue, begin
                    cue = None
    if cue:
        yield cue, begin


def _without_number(lines: list[str]) -> list[str]:
    """A subtitle without the number of the next one, where no blank line divides them."""
    return lines[:-1] if len(lines) > 1 and lines[-1].isdigit() else lines

"""Plain text: questions and answers with their speakers named, dialogues, lines of two columns, or a corpus."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Protocol

from autoswift.understand.readers import delimited, markup
from autoswift.understand.readers.base import Job
from autoswift.understand.readers.text import TextStream
from autoswift.understand.records import Record
from autoswift.understand.turns import Turn, role_of

SPEAKER = re.compile(  # a date and time may stand before the speaker
    r"^\s{0,20}(?:[\[(（【]?\d{2,4}[-/.年]\d{1,2}[-/.月]\d{1,2}日?[ T]*(?:\d{1,2}:\d{2}(?::\d{2})?)?[\])）】]?\s*)?"
    r"(?:\d{1,4}\s*[.、)）]\s*)?[*_#>\s]{0,6}"  # "1. ", "**"
    r"[\[【<]?([^\s:：\[\]【】*<>]{1,12}(?: \d{1,4})?)[\]】>]?"
    r"\s*[*_]{0,2}\s*[:：][*_]{0,2}\s*"
)
"""Who speaks at the beginning of a line: "Q:", "问：", "**User**:", "1. 提问：", "[2024-01-01 10:00] 客服："."""
JUDGED = 400
"""Lines by which a text is judged."""
MARKED = 0.3
"""Of the lines that are not blank, those that name their speaker in a text of dialogues: answers of several
paragraphs leave the others."""
LONG_BLOCK = 20_000
"""Characters after which a block of a corpus without blank lines ends at the next line's end: a chapter."""


def read(text: TextStream, job: Job) -> Iterator[Record]:
    """The records of a text: dialogues as lists of turns, a corpus as texts.

    Raises:
        DataError: as the reader of the kind of text that it turns out to be.
    """
    lines = _first_lines(text)
    filled = [x for x in lines if x.strip()]
    if job.suffix in (".srt", ".vtt") or markup.is_subtitles(filled):
        return markup.subtitles(text, job)
    if markup.has_table(lines) or job.suffix in (".md", ".markdown"):
        return markup.markdown(text, job)
    if _is_dialogue(filled):
        return dialogues(text, job, in_blocks(lines))
    mark = _columns(filled, job.suffix)
    if mark:
        return delimited.read(text, job, mark)
    job.format = "text"
    return _pairs(text, job) if _is_pairs(lines) else _corpus(text, job, "" in [x.strip() for x in lines])


def _first_lines(text: TextStream) -> list[str]:
    lines = text.head.split("\n", JUDGED)
    if len(lines) > 1 and (len(lines) > JUDGED or not text.whole):
        lines.pop()
    while lines and not lines[-1].strip():
        lines.pop()
    while lines and not lines[0].strip():
        lines.pop(0)
    return lines


def speaker(line: str) -> tuple[str, str] | None:
    """The role and the words of a line that names its speaker."""
    found = SPEAKER.match(line)
    role = role_of(found[1]) if found else None
    return (role, line[found.end() :]) if found and role else None


def _is_dialogue(filled: list[str]) -> bool:
    """Whether enough lines name their speaker and both sides speak."""
    roles = [s[0] for s in map(speaker, filled) if s]
    return {"user", "assistant"} <= set(roles) and len(roles) >= MARKED * min(len(filled), 40)


def in_blocks(lines: list[str]) -> bool:
    """Whether blank lines divide dialogues of several questions each; else each question begins a new one."""
    asked = several = 0
    for line in [*lines, ""]:
        if not line.strip():
            several += asked > 1
            asked = 0
        elif (said := speaker(line)) and said[0] == "user":
            asked += 1
    return several > 0 and any(not x.strip() for x in lines)


class Lines(Protocol):
    """Lines in pieces, as `TextStream` gives them."""

    def lines(self) -> Iterator[list[str]]:
        """Lists of lines without their ends."""
        ...


def dialogues(text: Lines, job: Job, blocks: bool) -> Iterator[Record]:
    """Dialogues whose lines name their speakers; a line that does not belongs to the turn before it.

    Args:
        text: the file.
        job: its place.
        blocks: whether a blank line divides dialogues.
    """
    job.format = job.format or "text"
    turns: list[tuple[str, list[str]]] = []
    begin = number = 0
    blank = True
    for lines in text.lines():
        for line in lines:
            number += 1
            if not line.strip():
                blank = True
                if turns:
                    turns[-1][1].append("")
                continue
            said = speaker(line)
            if said is None:
                if turns:
                    turns[-1][1].append(line)
                elif line.strip("#=-*_ \t"):
                    begin = begin or number
                    job.add("text_without_speaker", "flag", where={"line": number})
            else:
                if _begins(said[0], turns, blank and blocks, blocks):
                    yield _dialogue(turns, begin, job)
                    turns = []
                begin = begin if turns else number
                turns.append((said[0], [said[1]]))
            blank = False
    if turns:
        yield _dialogue(turns, begin, job)


def _begins(role: str, turns: list[tuple[str, list[str]]], divided: bool, blocks: bool) -> bool:
    """Whether a turn begins a new dialogue."""
    if not turns or role not in ("user", "system"):
        return False
    answered = turns[-1][0] not in ("user", "system")
    if role == "system":
        return answered
    return divided if blocks else answered


def _dialogue(turns: list[tuple[str, list[str]]], line: int, job: Job) -> Record:
    value: list[Turn] = [{"role": role, "content": "\n".join(lines).strip()} for role, lines in turns]
    job.row += 1
    return Record(value, job.file, line, job.row, job.member)


def _columns(filled: list[str], suffix: str) -> str | None:
    """The delimiter of a text whose lines all have the same number of cells, two or more."""
    if len(filled) < 2:
        return None
    marks = "\t" if suffix in (".txt", ".text", ".log") else delimited.DELIMITERS
    for mark in marks:
        widths = {x.count(mark) for x in filled}
        if len(widths) == 1 and widths != {0}:
            return mark
    return None


def _is_pairs(lines: list[str]) -> bool:
    """Whether blocks of two lines are a question and its answer: most of the first lines ask."""
    blocks = _blocks(lines)
    if len(blocks) < 2 or any(len(b) != 2 for b in blocks):
        return False
    asking = sum(b[0].rstrip().endswith(("?", "？", "吗", "呢")) for b in blocks)
    return asking > 0.6 * len(blocks)


def _blocks(lines: list[str]) -> list[list[str]]:
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [b for b in blocks if b]


def _pairs(text: TextStream, job: Job) -> Iterator[Record]:
    """Blocks of a question and its answer."""
    for lines, number in _stream_blocks(text, divided=True):
        answer = "\n".join(lines[1:]).strip()
        value = [{"role": "user", "content": lines[0].strip()}, {"role": "assistant", "content": answer}]
        job.row += 1
        yield Record(value, job.file, number, job.row, job.member)


def _corpus(text: TextStream, job: Job, divided: bool) -> Iterator[Record]:
    """The paragraphs of a text where blank lines divide it, its lines where they do not."""
    for lines, number in _stream_blocks(text, divided):
        value: Any = "\n".join(lines).strip()
        job.row += 1
        yield Record(value, job.file, number, job.row, job.member)


def _stream_blocks(text: TextStream, divided: bool) -> Iterator[tuple[list[str], int]]:
    """Blocks of lines with the line that each begins on."""
    block: list[str] = []
    begin = number = length = 0
    for lines in text.lines():
        for line in lines:
            number += 1
            if line.strip():
                begin = begin if block else number
                block.append(line)
                length += len(line)
            if block and (not divided or not line.strip() or length > LONG_BLOCK):
                yield block, begin
                block, length = [], 0
    if block:
        yield block, begin

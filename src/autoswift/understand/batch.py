"""What is made of some hundred records at a time, in whichever process: clean rows, their keys, counts and examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

from autoswift.understand import flags, near, shapes
from autoswift.understand.characters import HAN, HANGUL, KANA, codes_of
from autoswift.understand.clean import REASONS, TIDIED, TOO_LONG, Keys, Outcome, Row, clean_row, keys_of
from autoswift.understand.meta import FLAGS, MASKED, digest, dtype, ends, leaves, scripts, tokens
from autoswift.understand.problems import printable
from autoswift.understand.redact import redact_all
from autoswift.understand.shapes import Shape
from autoswift.understand.show import change, marked, said

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Item = tuple[Any, int, int | None, int, int]
"""A record: its value, the number of its file, line, row, part (0 divided here, 1 own validation, 2 own test)."""
EXAMPLES = 3
"""Of each step: one may be odd, three show what it does."""
LABELS_MOST = 1000
"""Labels that a batch names; more are no labels but answers."""
_quoted = json.encoder.encode_basestring
"""A text as JSON; as `json.dumps` without `ensure_ascii` writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How records become rows; the same for all batches.

    Attributes:
        shape, task, columns: of the main shape. given: columns as the user named them.
        whole: the records are conversations already put together.
        redact: personal data is masked. table: the file is a spreadsheet or a table.
    """

    shape: str
    task: str
    columns: dict[str, str]
    given: dict[str, str]
    whole: bool = False
    redact: bool = False
    table: bool = False


@dataclass(slots=True)
class Batch:
    """What became of the records, in their order.

    Attributes:
        lines: each row as it will be written (a removed one as it came), with a line end. meta: `dtype()`, (rows,).
        marks: MinHash signatures, (rows, 128); zeros for removed rows. answers: lengths of all answers in characters.
        labels: digest to label.
        examples: by step, (index, before, after). foreign: indices of records of another shape.
        media: kinds of files that rows name: images, audios, videos.
    """

    lines: bytes
    meta: NDArray[np.void]
    marks: NDArray[np.uint8]
    answers: NDArray[np.uint32]
    labels: dict[int, str] = field(default_factory=dict)
    examples: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    foreign: list[int] = field(default_factory=list)
    media: list[str] = field(default_factory=list)


class Worker:
    """Turns records into rows, with what it remembers of the shapes it has met."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.main = Shape(settings.shape, settings.task, settings.columns)
        self.standard = settings.task == "sft" and settings.columns.get("messages") == "messages" and not settings.given
        self._known: dict[Any, Shape | None] = {}

    def batch(self, items: Sequence[Item]) -> Batch:
        """The rows of some records."""
        import numpy as np

        out = _Collector(self.settings, items)
        for index, item in enumerate(items):
            row, reason = self._row(item[0])
            if row is None:
                out.lost(index, reason)
                continue
            one = clean_row(row, self.settings.task, mask=self.settings.redact)
            out.example(index, row, one)
            if one.reason:
                out.lost(index, one.reason)
            else:
                out.keep(index, one, self._session(item[0]))
        meta = out.finished()
        marks = np.zeros((len(items), near.PERMUTATIONS), dtype=np.uint8)
        if out.texts:
            marks[out.kept] = near.signatures(out.texts)
        answers = np.asarray(out.answers, dtype=np.uint32)
        return Batch(
            b"".join(out.lines), meta, marks, answers, out.labels, out.examples, out.foreign, sorted(out.media)
        )

    def _row(self, value: Any) -> tuple[Row | None, str]:
        """A record in its common form, or why it has none."""
        if self.settings.whole:
            return value, ""
        if self.standard and (row := _standard(value)) is not None:
            return row, ""
        record = record_of(value)
        shape = self.main if self.main.name == "guessed" else shape_of(record, self.settings.given, self._known)
        row = None
        if isinstance(record, dict) and (shape is None or shape.task != self.main.task):
            # The types of a row may look like another task's (a label 0 or 1 among 0 to 5): its columns are the file's.
            shape = self.main if set(self.main.columns.values()) <= record.keys() else shape
        if isinstance(record, dict) and shape is not None and shape.task == self.main.task:
            row = shapes.rewrite(record, shape)
        if row is not None:
            return row, ""
        empty = isinstance(record, dict) and not any(v not in (None, "", []) for v in record.values())
        return None, "empty_turns" if empty else "mixed_columns"

    def _session(self, value: Any) -> int:
        """The session that a record says it belongs to."""
        column = self.settings.columns.get("group")
        if column is None or self.settings.whole or not isinstance(value, dict):
            return 0
        name = value.get(column)
        return digest(str(name)) if name not in (None, "") else 0


_ROLES = frozenset(("system", "user", "assistant"))
_BESIDE = frozenset(("messages", "id", "source"))


def _standard(value: Any) -> Row | None:
    """A record that is written as the common form is, with no column beside that means anything; else None.

    What `shapes` makes of it, at a fifth of the time.
    """
    if value.__class__ is not dict or not value.keys() <= _BESIDE:
        return None
    turns = value.get("messages")
    if turns.__class__ is not list or not turns:
        return None
    for turn in turns:
        if turn.__class__ is not dict or len(turn) != 2 or turn.get("role") not in _ROLES:
            return None
        if turn.get("content").__class__ is not str:
            return None
    return {"messages": turns}


def record_of(value: Any) -> Any:
    """A bare dialogue or text as an object."""
    if isinstance(value, list):
        return {"messages": value}
    return {"text": value} if isinstance(value, str) else value


def shape_of(record: Any, columns: Mapping[str, str], known: dict[Any, Shape | None]) -> Shape | None:
    """The shape of a record, remembered for its columns and the types in them."""
    if not isinstance(record, dict):
        return None
    key = (*record, *map(type, record.values()))
    if key not in known:
        shape = shapes.shape_of(record, columns)
        if shape is None or shape.task == "pretrain" or isinstance(record.get(shape.columns.get("messages", "")), str):
            return shape  # what a string holds differs from record to record
        known[key] = shape
    return known[key]


def line_of(value: Any) -> bytes:
    """A value as a JSON line."""
    if value.__class__ is dict and len(value) == 1 and "messages" in value:  # most rows: a third of the time
        turns = [f'{{"role": {_quoted(t["role"])}, "content": {_quoted(t["content"])}}}' for t in value["messages"]]
        return f'{{"messages": [{", ".join(turns)}]}}\n'.encode()
    text = json.dumps(value, ensure_ascii=False, default=str) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a character, in a record that is only kept to be looked at
        return (json.dumps(value, default=str) + "\n").encode()


class _Collector:
    """Gathers a batch row by row; what can be done for all at once is done at the end."""

    def __init__(self, settings: Settings, items: Sequence[Item]) -> None:
        import numpy as np

        self.settings, self.items = settings, items
        self.meta = np.zeros(len(items), dtype=dtype())
        self.lines: list[bytes] = []
        self.texts: list[str] = []
        self.kept: list[int] = []
        self.values: list[tuple[Any, ...]] = []
        self.reasons = [0] * len(items)
        self.answers: list[int] = []
        self.labels: dict[int, str] = {}
        self.examples: dict[str, list[tuple[int, str, str]]] = {}
        self.foreign: list[int] = []
        self.media: set[str] = set()

    def lost(self, index: int, reason: str) -> None:
        """A record that is removed."""
        value = self.items[index][0]
        self.lines.append(line_of(redact_all(value) if self.settings.redact else value))
        self.reasons[index] = REASONS.index(reason) + 1
        if reason == "mixed_columns":
            self.foreign.append(index)
        self._note(reason, index, lambda: (said(value), ""))

    def keep(self, index: int, one: Outcome, session: int) -> None:
        """A clean row."""
        row = one.row
        keys = keys_of(row)
        marks = self._flags(index, row, keys)
        turns = row["messages"]
        if len(row) > 1:
            self.media.update(kind for kind in shapes.MEDIA_COLUMNS if row.get(kind))
        lengths = [len(t["content"]) for t in turns]
        roles = [t["role"] for t in turns]
        answers = [n for n, role in zip(lengths, roles, strict=True) if role == "assistant"]
        self.answers += answers
        system = roles[0] == "system"
        self.lines.append(line_of(row))
        self.kept.append(index)
        self.texts.append(keys.text)
        self.values.append(
            (
                int.from_bytes(keys.whole[:8], "little"),
                int.from_bytes(keys.whole[8:16], "little"),
                digest(keys.prompt) if keys.prompt else 0,
                self._says(keys),
                self._label(row),
                session,
                *self._ends(row, keys),
                sum(lengths),
                _bits(FLAGS, marks),
                len(turns) - system,
                len(answers),
                roles.count("tool"),
                system,
                _bits(TIDIED, one.done),
                _bits(MASKED, one.masked),
            )
        )

    def finished(self) -> NDArray[np.void]:
        """The rows' entries."""
        import numpy as np

        meta = self.meta
        meta["size"] = [len(line) for line in self.lines]
        for name, place in (("file", 1), ("row", 3), ("part", 4)):
            meta[name] = [item[place] for item in self.items]
        meta["line"] = [item[2] if item[2] is not None else -1 for item in self.items]
        meta["reason"] = self.reasons
        if not self.kept:
            return meta
        names = ["key", "key2", "prompt", "says", "label", "session", "head", "tail", "short"]
        names += ["chars", "flags", "turns", "answers", "tools", "system", "tidied", "masked"]
        for name, column in zip(names, zip(*self.values, strict=True), strict=True):
            meta[name][self.kept] = np.asarray(column, dtype=meta.dtype[name])
        codes = codes_of(self.texts)
        blank = np.concatenate([[0], np.cumsum(np.isin(codes.codes, (32, 10)))])
        meta["cjk"][self.kept] = codes.count(HAN, KANA, HANGUL)
        meta["seen"][self.kept] = codes.sizes - (blank[codes.starts + codes.sizes] - blank[codes.starts])
        meta["tokens"][self.kept] = tokens(codes, meta["chars"][self.kept].astype(np.int64))
        meta["script"][self.kept] = scripts(codes)
        return meta

    def example(self, index: int, before: Row, one: Outcome) -> None:
        """Notes what cleaning changed."""
        if one.reason or not (one.done or one.masked):
            return
        for kind in {*one.done, *(f"masked_{k}" for k in one.masked)}:
            self._note(kind, index, lambda: change(before, one.row))

    def _note(self, kind: str, index: int, make: Callable[[], tuple[str, str]]) -> None:
        some = self.examples.setdefault(kind, [])
        if len(some) < EXAMPLES:
            before, after = make()
            some.append((index, str(printable(before)), str(printable(after))))

    def _flags(self, index: int, row: Row, keys: Keys) -> list[str]:
        found = flags.of_row(row, self.settings.task, TOO_LONG, keys.turns)
        if self.settings.table and any(flags.FORMULA.match(t["content"]) for t in row["messages"]):
            found.append("csv_formula_injection")
        if len(row) > 1 and any(leaves(p) for kind in shapes.MEDIA_COLUMNS for p in row.get(kind, ())):
            found.append("path_traversal")
        for kind in found:
            if not kind.startswith("pii_"):
                self._note(kind, index, partial(_with_mark, row, kind))
        return found

    def _says(self, keys: Keys) -> int:
        """What a row says beyond its wording: the answer and the numbers."""
        answer = keys.answer if self.settings.task != "pretrain" else ""
        return digest(answer + "\x1d" + "\x1f".join(flags.NUMBERS.findall(keys.text)))

    def _label(self, row: Row) -> int:
        if "label" not in row:
            return 0
        label = str(row["label"])
        mark = digest(label)
        if len(self.labels) < LABELS_MOST:
            self.labels.setdefault(mark, label)
        return mark

    def _ends(self, row: Row, keys: Keys) -> tuple[int, int, int]:
        """Digests of an answer's first and last sentence, and of a whole short one."""
        last = row["messages"][-1]
        if last["role"] != "assistant" or self.settings.task in ("classification", "pretrain"):
            return 0, 0, 0
        text = last["content"]
        if len(text) <= flags.SHORT:
            return 0, 0, crc32(keys.answer.encode("utf-8", "replace")) or 1
        head, tail = ends(text)
        return (crc32(head.encode()) or 1 if head else 0), (crc32(tail.encode()) or 1 if tail else 0), 0


def _with_mark(row: Row, kind: str) -> tuple[str, str]:
    return marked(row, kind), ""


def _bits(names: tuple[str, ...], found: Sequence[str]) -> int:
    bits = 0
    for name in found:
        bits |= 1 << names.index(name)
    return bits

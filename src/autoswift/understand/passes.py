"""The three passes over a data file: records to clean rows, rows compared and divided, rows to files."""

from __future__ import annotations

import itertools
import json
import marshal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoswift import __version__
from autoswift.domain.profile import DataProfile
from autoswift.run.files import dumps, write_atomic
from autoswift.understand import crew, sessions, shapes
from autoswift.understand.batch import Item, Settings, record_of, shape_of
from autoswift.understand.clean import REASONS, Row
from autoswift.understand.measure import Measures, histogram, shown, stats
from autoswift.understand.names import split_name
from autoswift.understand.output import MANIFEST, REMOVED, write_manifest, write_rows
from autoswift.understand.problems import Findings
from autoswift.understand.reader import Paths, open_source
from autoswift.understand.records import Record, Source
from autoswift.understand.settle import SETS, Settled, drop_duplicates, settle
from autoswift.understand.shapes import Shape
from autoswift.understand.split import NAMES, TEST, TRAIN, VALIDATION
from autoswift.understand.spool import Spool
from autoswift.understand.tell import report

PEEK = 200
"""Records that the shape is judged by."""
BATCH, WEIGHT = 1000, 4_000_000
"""Records, and bytes in them, that are worked on at a time: enough for arrays to pay, little enough to hold."""
PARTS = {name: part for part, name in SETS.items()}
PROFILE = "profile.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may say about a data file.

    Attributes:
        columns: role to column name.
        seed: of the division.
        language: of the problems' texts, zh or en.
        redact: personal data is masked, in removed rows, too.
        test, validation: the user's own sets; nothing is taken from the data for them.
        helpers: processes beside this one for many rows; None uses the machine's cores.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    language: str = "en"
    redact: bool = False
    test: Paths | None = None
    validation: Paths | None = None
    helpers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """What became of a data file.

    Attributes:
        profile: what it holds.
        files: those written, by name: train, validation, test, removed, manifest, profile.
    """

    profile: DataProfile
    files: dict[str, Path]


class Passes:
    """One data file on its way."""

    def __init__(self, paths: Paths, options: Options, work: Path) -> None:
        """Carries out the first two passes.

        Raises:
            DataError: when the data cannot be used.
        """
        self.options = options
        self.source = open_source(paths, options.columns, language=options.language)
        self.findings: Findings = self.source.findings
        self.spool = Spool(work)
        try:
            self._read(work)
            self.settled = drop_duplicates(self.spool)
            self._check()
            settle(self.spool, self.settled, options.seed, self.findings)
            self.measures = Measures(self.spool, self.settled, self.shape.task)
            report(self.measures, self.findings)
        except BaseException:
            self.spool.close()
            raise

    def _read(self, work: Path) -> None:
        """The first pass."""
        own = ((self.options.validation, VALIDATION), (self.options.test, TEST))
        self.sources: list[tuple[Source, int | None]] = [(self.source, None)]
        for paths, part in own:
            if paths is not None:
                other = open_source(paths, self.options.columns, language=self.options.language)
                self.sources.append((other, part))
        self.names: dict[str, str] = {}
        items = self._items()
        head = list(itertools.islice(items, PEEK))
        self.shape = self._main_shape(head)
        whole = self.shape.name == "turn_per_row"
        settings = Settings(
            shape=self.shape.name,
            task=self.shape.task,
            columns=dict(self.shape.columns),
            given=dict(self.source.columns),
            whole=whole,
            redact=self.options.redact,
            table=self.source.format in ("csv", "tsv", "xlsx", "mixed"),
        )
        every = itertools.chain(head, items)
        self.odd = 0
        rows = sessions.conversations(self._turns(every), self.shape, work) if whole else every
        helpers = self.options.helpers if self.options.helpers is not None else crew.cores() - 1
        for batch in crew.batches(settings, _cut(rows), work, helpers):
            self.spool.add(batch)
        self.spool.finish()

    def _items(self) -> Iterator[Item]:
        """All records with their places."""
        numbers: dict[tuple[str, str | None], tuple[int, int]] = {}
        for source, part in self.sources:
            last: tuple[str, str | None] | None = None
            number = here = 0
            for record in source:
                place = (record.file, record.member)
                if place != last:
                    last = place
                    if place not in numbers:
                        said = self._part(source, record)
                        numbers[place] = (len(numbers), said if part is None else part)
                        self.spool.places.append(place)
                    number, here = numbers[place]
                yield record.value, number, record.line, record.row, here if part is None else part
            if source is not self.source:
                for problem in source.findings.problems:
                    self.findings.take(problem)

    def _part(self, source: Source, record: Record) -> int:
        """The part that a file's name puts its records in, where it is one of several."""
        inside = record.file.removeprefix(source.path.rstrip("/") + "/")
        name = inside if inside != record.file else Path(record.file).name
        self.names.setdefault(record.file, name)
        if record.member is None and record.file == source.path:
            return TRAIN
        said = (split_name(record.member) if record.member else None) or split_name(name)
        return PARTS.get(said or "", TRAIN)

    def _turns(self, items: Iterable[Item]) -> Iterator[Item]:
        """The records of a table with one turn a row; what is no object is counted and left out."""
        for item in items:
            if isinstance(item[0], dict):
                yield item
            else:
                self.odd += 1

    def _main_shape(self, head: Sequence[Item]) -> Shape:
        """The shape of most of the first records.

        Raises:
            DataError: no_text_columns.
        """
        records = [record_of(item[0]) for item in head]
        known = [shape_of(r, self.source.columns, {}) for r in records]
        main = shapes.majority(known)
        if main is None:
            main = shapes.guess([r for r in records if isinstance(r, dict)])
        if main is None:
            names = dict.fromkeys(str(k) for r in records if isinstance(r, dict) for k in r)
            where = {"line": head[0][2]} if head else None
            raise self.findings.error("no_text_columns", where=where, columns=", ".join(list(names)[:20]) or "-")
        if main.name == "guessed":
            columns = ", ".join(f"{k}={v}" for k, v in main.columns.items())
            self.findings.add("columns_guessed", "warn", columns=columns)
        return main

    def _check(self) -> None:
        """Whether anything is left, and whether most records are of one kind.

        Raises:
            DataError: mixed_columns, only_user_turns, all_empty_answers, all_duplicates, nothing_left.
        """
        for row in self.spool.foreign:
            self.findings.add("other_shape", "warn", where=self.spool.place(row), shape=self.shape.name)
        counts = _counts(self.settled)
        foreign, kept = counts.pop("mixed_columns", 0), counts.pop("", 0)
        given = kept + sum(counts.values())
        if foreign > given:
            raise self.findings.error("mixed_columns", where=self._where(0), bad=foreign, total=foreign + given)
        if kept == 1 and given > 1 and counts.get("duplicate", 0) == given - 1:
            raise self.findings.error("all_duplicates", where=self._where(0), rows=given)
        if kept:
            return
        where = self._where(0) if self.spool.rows else None
        for reason, kind in (("empty_answers", "all_empty_answers"), ("only_user_turns", "only_user_turns")):
            if counts.get(reason, 0) * 2 > given:
                raise self.findings.error(kind, where=where, rows=given)
        told = ", ".join(f"{k}: {v}" for k, v in counts.items())
        raise self.findings.error("nothing_left", where=where, rows=given, reasons=told)

    def _where(self, row: int) -> dict[str, Any]:
        """The line of a row; the row's number is not said."""
        return self.spool.place(row) | {"row": None}

    def rows(self) -> dict[str, list[Row]]:
        """The rows of each split."""
        kept = self.settled.reason == 0
        found: dict[str, list[Row]] = {}
        for number, name in enumerate(NAMES):
            text = b"".join(self.spool.runs((kept & (self.settled.split == number)).nonzero()[0]))
            found[name] = [json.loads(line) for line in text.split(b"\n") if line]
        return found

    def profile(self, files: Mapping[str, str] = {}) -> DataProfile:
        """What the file holds.

        Args:
            files: the files that hold the rows, by name.
        """
        found, spool = self.measures, self.spool
        removed = dict(self.source.lost)
        for reason, count in found.removed().items():
            removed[reason] = removed.get(reason, 0) + count
        if self.odd:
            removed["mixed_columns"] = removed.get("mixed_columns", 0) + self.odd
        for source, part in self.sources:
            for reason, count in source.lost.items() if part is not None else ():
                removed[reason] = removed.get(reason, 0) + count
        labels, label_splits = found.labels()
        kept = len(found.rows)
        split = self.settled.split[found.rows]
        cjk, seen = int(found.column("cjk").sum()), int(found.column("seen").sum())
        return DataProfile(
            path=self.source.path,
            sha256=self.source.sha256,
            format=f"{self.source.format}/{self.shape.name}",
            task=self.shape.task,
            language=found.language,
            domain=found.domain,
            modality=next((k.removesuffix("s") for k in ("videos", "audios", "images") if k in spool.media), "text"),
            rows=kept + sum(removed.values()),
            conversations=kept,
            turns_mean=round(float(found.column("turns").mean()), 3),
            splits={name: int((split == i).sum()) for i, name in enumerate(NAMES)},
            characters=stats(found.column("chars")),
            answer_characters=stats(found.answers()),
            cjk_share=round(cjk / seen, 4) if seen else 0.0,
            first=shown(found.row(int(found.rows[0])), self.shape.task),
            roles=found.roles(),
            columns=dict(self.shape.columns),
            removed=removed,
            flagged=found.flagged,
            problems=tuple(self.findings.problems),
            tidied=found.tidied,
            redacted=found.redacted,
            examples=found.examples,
            samples=found.samples(),
            tokens=stats(found.column("tokens")),
            histogram=histogram(found.column("chars")),
            token_histogram=histogram(found.column("tokens")),
            labels=labels,
            label_splits=label_splits,
            near=self.settled.near,
            own_sets=self.settled.own,
            encoding=self.source.encoding,
            row_files=dict(files),
        )

    def write(self, out: Path) -> Inspected:
        """The third pass.

        Args:
            out: the folder, which is there.
        """
        names = {name: out / f"{name}.jsonl" for name in NAMES}
        names |= {"removed": out / REMOVED, "manifest": out / MANIFEST, "profile": out / PROFILE}
        profile = self.profile({name: path.name for name, path in names.items()})
        lost = tuple(p for s, _ in self.sources for p in s.findings.problems if p.kind in s.lost and p.line is not None)
        files = write_rows(self.spool, self.settled, out, lost, self.names)
        given = self.options
        facts = {
            "version": 1,
            "made_by": f"autoswift {__version__}",
            "source": {
                "name": Path(profile.path).name,
                "sha256": profile.sha256,
                "format": profile.format,
                "encoding": profile.encoding,
            },
            "own_sets": {SETS[part]: source.sha256 for source, part in self.sources if part is not None},
            "task": profile.task,
            "columns": profile.columns,
            "options": {"columns": dict(given.columns), "seed": given.seed, "redact": given.redact},
            "counts": {
                "read": profile.rows,
                "kept": profile.conversations,
                "removed": profile.removed,
                "flagged": profile.flagged,
                "tidied": profile.tidied,
                "redacted": profile.redacted,
                "splits": profile.splits,
            },
            "labels": {label: i for i, label in enumerate(sorted(profile.labels))},
        }
        write_manifest(out, files, facts)
        write_atomic(out / PROFILE, dumps(profile, indent=1) + "\n")
        return Inspected(profile=profile, files=names)


def _cut(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Batches of records: by number, and by size where they are long."""
    part: list[Item] = []
    weight = 0
    for item in items:
        part.append(item)
        weight += _weight(item[0])
        if len(part) == BATCH or weight > WEIGHT:
            yield part
            part, weight = [], 0
    if part:
        yield part


def _weight(value: Any) -> int:
    """Bytes of a record, roughly: as long as Python's own notation of it, which is quickly written."""
    try:
        return len(marshal.dumps(value))
    except ValueError:  # a date, a decimal number
        return len(str(value))


def _counts(settled: Settled) -> dict[str, int]:
    """Rows by reason; those kept under the empty word."""
    import numpy as np

    found = np.bincount(settled.reason, minlength=len(REASONS) + 1)
    return {name: int(n) for name, n in zip(("", *REASONS), found, strict=True) if n}

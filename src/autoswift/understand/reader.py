"""Opens data files, folders and archives as a stream of records, or says by file and line why it cannot."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoswift.domain.profile import Problem, Severity
from autoswift.errors import DataError
from autoswift.run.files import file_sha256
from autoswift.understand.problems import Findings
from autoswift.understand.readers import choose, files
from autoswift.understand.readers.base import BombError, DamagedError, Job, Limits
from autoswift.understand.records import Record, Source

__all__ = ["FileSource", "Limits", "Paths", "open_source"]

Paths = str | Path | Sequence[str | Path]
CHECKED_ROWS = 200
"""Records in which a column that the user names must come: rare columns of JSON are there by then."""
_HUB = re.compile(r"(?:hf|ms|huggingface|modelscope)(?:://|::)\S+", re.IGNORECASE)


def open_source(
    paths: Paths, columns: Mapping[str, str] = {}, *, language: str = "en", limits: Limits | None = None
) -> Source:
    """Opens a data file, a folder, an archive, or several of them.

    Args:
        paths: what they are called matters less than what they hold. A pattern ("data/*.jsonl") is spread.
        columns: role to column name ("user", "assistant", …), where the user says it.
        language: of the problems' texts, zh or en.
        limits: of what is read; by default `Limits()`.

    Returns:
        The source; its first record has been read, so that a file that is none of ours is refused here.

    Raises:
        DataError: with each finding by file and line.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    return FileSource([str(p) for p in given], columns, language, limits or Limits())


class FileSource:
    """See `records.Source`."""

    def __init__(self, given: Sequence[str], columns: Mapping[str, str], language: str, limits: Limits) -> None:
        """Finds the files and looks at the first record.

        Raises:
            DataError: as `open_source`.
        """
        self.path = given[0] if len(given) == 1 else ", ".join(given)
        self.format = self.encoding = ""
        self.columns: Mapping[str, str] = dict(columns)
        self.findings = Findings(self.path, language)
        self.lost: dict[str, int] = {}
        self.limits = limits
        self.files, self.notes = self._find(given)
        self._reported, self._sha256 = 0, ""
        for _ in self:
            break

    def _find(self, given: Sequence[str]) -> tuple[list[tuple[str, Path]], list[files.Note]]:
        found: list[tuple[str, Path]] = []
        notes: list[files.Note] = []
        for name in self._spread(given):
            if _HUB.match(name):
                raise self.findings.error("needs_hub", where={"file": name}, name=name)
            try:
                path = Path(name).expanduser()
                wrong = files.check_regular(path)
            except (OSError, ValueError, RuntimeError) as exc:
                raise self.findings.error("unreadable", where={"file": name}, reason=str(exc)) from exc
            if wrong == "is_folder":
                inside, about = files.in_folder(path, name.rstrip("/") or "/", self.limits)
                found += inside
                notes += about
            elif wrong:
                raise self.findings.error(wrong, where={"file": name}, path=name)
            else:
                found.append((name, path))
        if not found and not any(n.refused for n in notes):
            raise self.findings.error("empty_folder")
        return list(dict(found).items()), notes

    def _spread(self, given: Sequence[str]) -> Iterator[str]:
        """The names given; a pattern becomes the files that it fits."""
        for name in given:
            if any(c in name for c in "*?[") and not _HUB.match(name) and not os.path.exists(name):
                yield from sorted(glob.glob(name, recursive=True)) or [name]
            else:
                yield name

    @property
    def sha256(self) -> str:
        """Of the file; over the sorted list of (name, hash) when there are several."""
        if not self._sha256:
            hashes = [(shown, file_sha256(path)) for shown, path in self.files]
            whole = "".join(f"{name}\0{value}\n" for name, value in sorted(hashes))
            several = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()
            self._sha256 = hashes[0][1] if len(hashes) == 1 else several
        return self._sha256

    def __iter__(self) -> Iterator[Record]:
        """The records; see `records.Source`."""
        return _Reading(self).records()

    def report(self, number: int, make: Any) -> None:
        """Takes the problem number `number` of a reading, unless an earlier reading brought it."""
        if number > self._reported:
            self._reported = number
            make()


class _Reading:
    """One pass over a source.

    The same files give the same problems in the same order: those that an earlier pass reported are told by their
    number.
    """

    def __init__(self, source: FileSource) -> None:
        self.source, self.count, self.parts, self.rows = source, 0, 0, 0
        self.lost: dict[str, int] = {}
        self.failures: list[DataError] = []
        self.held: DataError | None = None

    def report(self, kind: str, severity: Severity, where: dict[str, Any], values: Mapping[str, object]) -> None:
        """Adds a problem to the source's findings."""
        self.count += 1
        rest = dict(values)
        text = str(rest.pop("text", ""))
        findings = self.source.findings
        self.source.report(self.count, lambda: findings.add(kind, severity, where=where, text=text, **rest))

    def lose(self, reason: str) -> None:
        """Counts a record that could not be read."""
        self.lost[reason] = self.lost.get(reason, 0) + 1
        self.source.lost[reason] = max(self.lost[reason], self.source.lost.get(reason, 0))

    def records(self) -> Iterator[Record]:
        """The records of all parts.

        Raises:
            DataError: nothing can be made of the only part, or of none of several.
        """
        source = self.source
        for note in source.notes:
            self._note(note)
        for shown, path in source.files:
            try:
                for part in files.parts_of(path, shown, source.limits):
                    if isinstance(part, files.Note):
                        self._note(part)
                    else:
                        yield from self._part(part)
            except BombError:
                raise self._bomb({"file": shown}) from None
            except (DamagedError, OSError) as exc:
                kind = "unreadable" if isinstance(exc, OSError) else "binary_garbage"
                where = {"file": shown} | ({} if isinstance(exc, OSError) else {"line": 1})
                reason = getattr(exc, "strerror", None) or str(exc)
                self._fail(source.findings.error(kind, where=where, reason=reason, found=reason))
                self.parts += 1
        self._conclude()

    def _note(self, note: files.Note) -> None:
        """Reports what was found about a file before reading it.

        Raises:
            DataError: zip_bomb.
        """
        text = "path_traversal_member" if note.kind == "path_traversal" else ""
        if note.refused:
            error = self.source.findings.error(note.kind, where=note.where, text=text, **note.values)
            if note.kind == "zip_bomb":
                raise error
            self._fail(error)
            self.parts += 1
        else:
            self.report(note.kind, note.severity, note.where, note.values | {"text": text})

    def _part(self, part: files.Part) -> Iterator[Record]:
        source = self.source
        self._release()
        self.parts += 1
        job = Job(
            file=part.file,
            member=part.member,
            suffix=part.suffix,
            findings=source.findings,
            report=self.report,
            limits=source.limits,
            columns=dict(source.columns),
            language=source.findings.language,
            lost=self.lose,
        )
        before = self.rows
        try:
            for record in self._checked(choose.read(part.stream, job), job):
                if self.rows == before:
                    self._first_of(job)
                self.rows += 1
                yield record
            if self.rows == before:
                raise job.error("no_rows", where={"line": 1})
        except BombError:
            raise self._bomb({"file": part.file, "member": part.member}) from None
        except DataError as exc:
            if not part.stream.damage:
                self._fail(exc)
        if part.stream.damage:
            self._damaged(part.stream.damage, self.rows - before, job)

    def _bomb(self, where: dict[str, Any]) -> DataError:
        limits = self.source.limits
        size = limits.unpacked // 2**20
        return self.source.findings.error("zip_bomb", where=where, limit=size, ratio=limits.ratio)

    def _damaged(self, reason: str, rows: int, job: Job) -> None:
        """A packed file ended before its time: what came before is kept."""
        if rows:
            job.add("damaged_archive", "warn", reason=reason, rows=rows)
        else:
            self._fail(job.error("binary_garbage", where={"line": 1}, found=reason))

    def _checked(self, records: Iterator[Record], job: Job) -> Iterator[Record]:
        """The records, when those at the beginning have the columns that the user names."""
        if not job.columns:
            return records
        head = list(itertools.islice(records, CHECKED_ROWS))
        names = dict.fromkeys(str(k) for r in head if isinstance(r.value, dict) for k in r.value)
        if head and not job.columns_checked:
            job.check_columns(list(names), head[0].line)
        return itertools.chain(head, records)

    def _first_of(self, job: Job) -> None:
        source = self.source
        source.format = job.format if source.format in ("", job.format) else "mixed"
        source.encoding = source.encoding or job.encoding

    def _fail(self, exc: DataError) -> None:
        self._release()
        self.failures.append(exc)
        self.held = exc

    def _release(self) -> None:
        """A failure that turns out to be one of several parts' becomes a warning."""
        if self.held is not None:
            problem = self.held.problems[-1]
            self.held = None
            if isinstance(problem, Problem):
                self.count += 1
                self.source.report(self.count, lambda: self.source.findings.take(replace(problem, severity="warn")))

    def _conclude(self) -> None:
        if self.failures and (self.rows == 0 or self.parts == 1):
            last = self.failures[0]
            problem = last.problems[-1]
            raise DataError(last.what, last.why, last.fix, (*self.source.findings.problems, problem))
        self._release()
        if self.rows == 0:
            raise self.source.findings.error("no_rows", where={"line": 1})

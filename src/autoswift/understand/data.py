"""A data file from its bytes to its profile and its three splits, in a stream: rows are on disk, not in memory.

Three passes: records become clean rows (`batch`, in two processes when there are many), rows are compared and divided
on arrays (`settle`), rows are written to their files (`output`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from autoswift.domain.profile import DataProfile
from autoswift.run.disk import disk_errors_explained
from autoswift.understand.clean import Row
from autoswift.understand.measure import domain_of
from autoswift.understand.passes import Inspected, Options, Passes
from autoswift.understand.reader import Paths
from autoswift.understand.sentence import sentence_report
from autoswift.understand.tell import as_report

__all__ = [
    "Inspected",
    "Options",
    "as_report",
    "domain_of",
    "inspect",
    "prepare_data",
    "profile_data",
    "sentence_report",
]


def prepare_data(paths: Paths, out: Path, options: Options) -> Inspected:
    """Reads, cleans, profiles and divides data into files; the same files, options and seed give the same bytes.

    Args:
        paths: a file, a folder, an archive, or several.
        out: the folder that takes train.jsonl, validation.jsonl, test.jsonl, removed.jsonl, manifest.json and
            profile.json; made when it is not there.
        options: see there.

    Raises:
        DataError: with each finding by file and line, when the data cannot be used.
        DiskFull: when there is no room for the rows.
    """
    with disk_errors_explained(str(out)):
        out.mkdir(parents=True, exist_ok=True)
    with _passes(paths, options, out) as passes:
        return passes.write(out)


def profile_data(paths: Paths, options: Options) -> DataProfile:
    """The profile alone: what `prepare_data` finds, with no rows kept.

    Raises:
        DataError: as `prepare_data`.
    """
    with _passes(paths, options) as passes:
        return passes.profile()


def inspect(
    path: Paths,
    columns: Mapping[str, str],
    seed: int,
    *,
    language: str = "en",
    redact: bool = False,
    test: Paths | None = None,
    validation: Paths | None = None,
) -> tuple[DataProfile, dict[str, list[Row]]]:
    """As `prepare_data`, for data small enough to hold: the rows are in the answer.

    Args:
        path: of the file, the folder, or several.
        columns: role to column name, where the user says it.
        seed: of the division.
        language: of the problems' texts, zh or en.
        redact: personal data is masked.
        test: the user's own test set.
        validation: the user's own validation set.

    Returns:
        The profile, and the rows of "train", "validation" and "test", each {"messages": [...]} with
        rejected_response, label, text, images… as its task has them.

    Raises:
        DataError: with each finding by file and line, when the file cannot be used.
    """
    options = Options(columns=columns, seed=seed, language=language, redact=redact, test=test, validation=validation)
    with _passes(path, options) as passes:
        return passes.profile(), passes.rows()


@contextmanager
def _passes(paths: Paths, options: Options, folder: Path | None = None) -> Iterator[Passes]:
    """The first two passes done, with the rows in a folder of their own until the end."""
    with tempfile.TemporaryDirectory(prefix=".rows-", dir=folder) as work, disk_errors_explained(str(folder or work)):
        passes = Passes(paths, options, Path(work))
        try:
            yield passes
        finally:
            passes.spool.close()

"""What was found out about a data file, said: problems for people, and what `autoswift data --json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoswift.domain.profile import DataProfile, Problem, Severity
from autoswift.run.files import plain
from autoswift.tables import text as say
from autoswift.understand.measure import Measures
from autoswift.understand.problems import Findings
from autoswift.understand.settle import SETS

LEAK_SHARE = 0.8
"""Of rows that say their own label, from which on the task is reading, not judging."""
MARKS = (
    "prompt_injection",
    "too_long_rows",
    "csv_formula_injection",
    "short_answers",
    "near_duplicate",
    "language_mismatch",
    "boilerplate",
    "path_traversal",
    "label_leak",
)
"""Kinds of marked rows that have a text of their own, in the order in which they are said."""


def report(found: Measures, findings: Findings) -> None:
    """Adds a problem for each kind of row that was removed, changed or marked."""
    for reason, count in found.removed().items():
        if reason != "mixed_columns":  # said row by row
            where = found.spool.place(found.first_removed(reason))
            findings.add(f"removed_{reason}", "warn", where=where, count=count)
    for kind, count in found.tidied.items():
        findings.add(f"tidied_{kind}", "flag", count=count)
    own = found.settled.own
    for name in SETS.values():
        if name in own:
            findings.add(
                "own_set",
                "flag",
                name=say(f"data.kind.{name}", findings.language),
                count=own[name],
                overlap=own[f"overlap_{name}"],
            )
    for kind, counts, rows in (
        ("redacted", found.redacted, sum(found.redacted.values())),
        ("pii", _kinds(found.flagged, "pii_"), found.flagged.get("pii", 0)),
        ("degenerate_answers", _kinds(found.flagged, "degenerate_"), found.flagged.get("degenerate_answers", 0)),
    ):
        if rows:
            findings.add(kind, "flag", count=rows, kinds=_named(counts, findings.language))
    total = len(found.rows)
    values: dict[str, dict[str, Any]] = {
        "language_mismatch": {"found": found.language},
        "boilerplate": {"said": found.examples["boilerplate"][0].before if "boilerplate" in found.examples else ""},
        "label_leak": {"total": total},
    }
    for kind in MARKS:
        marked = found.flagged.get(kind, 0)
        if marked:
            leaks = kind == "label_leak" and marked > LEAK_SHARE * total
            severity: Severity = "warn" if leaks or kind == "path_traversal" else "flag"
            findings.add(kind, severity, count=marked, **values.get(kind, {}))


def _named(counts: Mapping[str, int], language: str) -> str:
    """Kinds with their numbers, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(
        say("data.kind_count", language, name=say(f"data.kind.{k}", language), count=n) for k, n in ordered
    )


def _kinds(flagged: Mapping[str, int], prefix: str) -> dict[str, int]:
    """The kinds of one mark, without its prefix and its sum."""
    return {k.removeprefix(prefix): n for k, n in flagged.items() if k.startswith(prefix) and k != f"{prefix}answers"}


NAMED = "task language domain modality conversations first roles columns removed flagged"
"""Fields of the profile that CONTRACTS names."""
ADDED = (
    "rows splits turns_mean cjk_share sha256 encoding tidied redacted near own_sets characters answer_characters "
    "tokens histogram token_histogram labels label_splits samples examples row_files"
)
"""Further ones, for the pages."""


def _problem(one: Problem) -> dict[str, Any]:
    names = ("kind", "severity", "file", "line", "row", "column", "member", "message", "fix")
    return {name: getattr(one, name) for name in names}


def as_report(profile: DataProfile) -> dict[str, Any]:
    """The shape of `autoswift data --json`; what follows `problems` is added to what CONTRACTS names."""
    written, _, shape = profile.format.partition("/")
    report: dict[str, Any] = {"format": written, "shape": shape}
    report |= {name: getattr(profile, name) for name in NAMED.split()}
    report["problems"] = [_problem(p) for p in profile.problems]
    report |= {name: getattr(profile, name) for name in ADDED.split()}
    found: dict[str, Any] = plain(report)
    return found

"""What became of a data file, ready to be shown: on the page of `autoswift data`, in the report, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoswift.report import records, words
from autoswift.report.data_shown import Example, Finding, Section, Step
from autoswift.report.differences import Piece, differences
from autoswift.tables import has_text, text

MOST_PLACES = 8
"""Places of one finding that are named: more are looked up in the file of removed rows."""
MOST_LABELS = 20
"""Labels in the table; the rest is in the profile."""
KIN = {"mixed_columns": ("ragged_row", "other_shape")}
"""Reason to further kinds of problems that name the single rows left out for it."""
PARTS = {"pii": "pii_", "degenerate_answers": "degenerate_"}
"""Marks that say of which kinds they consist, by what stands before those kinds."""
SPLITS = ("train", "validation", "test")
ORDER = {"error": 0, "warn": 1, "flag": 2}
FILES = ("train", "validation", "test", "removed", "manifest", "profile")
SAID = ("system", "user", "assistant", "chosen", "rejected", "positive", "label")
"""What a sample says, in the order in which it is read."""
_FIX = {"removed": "removed_", "changed": "tidied_", "marked": ""}
"""Group to what stands before a kind in the keys of the finding's texts."""
_WHY = {"removed": "why_removed", "changed": "why_tidied", "marked": "why_marked"}
_NAMES = {"removed": "reason", "changed": "tidied", "marked": "problem"}


def section(
    profile: Mapping[str, Any],
    language: str,
    *,
    recount: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> Section:
    """What is shown of a data file.

    Args:
        profile: a `DataProfile` as its JSON value; an older one may lack fields.
        language: `zh` or `en`.
        recount: what the count with the model's own tokenizer left, once it was made.
        files: name to address of the files with the rows, for links.
    """
    return _Telling(profile, language, recount or {}).section(files or {})


def refused(problems: Sequence[Mapping[str, Any]], name: str, language: str) -> Section:
    """What is shown of data that cannot be used: its problems, the worst first."""
    telling = _Telling({"problems": problems, "path": name}, language, {})
    story = (telling.tell("refused"), telling.tell("refused_what"))
    return Section(name=telling.name, language=language, verdict="bad", story=story, findings=telling.findings(()))


COMMAND = "autoswift data {file} --column user=… --column assistant=…"
"""Looks again, with other columns."""


def drawn(shown: Section, command: str = "") -> dict[str, Any]:
    """A section with its pictures, as templates want it.

    Args:
        shown: the section.
        command: that looks again with other columns; by default one made of the file's name.
    """
    from autoswift.report import data_charts

    flow, legend = data_charts.flow(shown)
    again = command or COMMAND.format(file=shown.name)
    return {"section": shown, "flow": flow, "legend": legend, "lengths": data_charts.lengths(shown), "command": again}


class _Telling:
    """Reads a profile for one reader."""

    def __init__(self, profile: Mapping[str, Any], language: str, recount: Mapping[str, Any]) -> None:
        self.profile, self.language, self.recount = profile, language, recount
        self.too_long = int(recount.get("removed_too_long") or 0)
        self.rows = int(profile.get("rows") or 0)
        self.kept = int(profile.get("conversations") or 0) - self.too_long
        self.problems: list[Mapping[str, Any]] = list(profile.get("problems") or [])
        self.name = short_path(str(profile.get("path") or ""), language)
        shown = [one for some in (profile.get("examples") or {}).values() for one in some]
        named = [*shown, *(profile.get("samples") or []), *(p for p in self.problems if p.get("line"))]
        self.several = len({_file(one) for one in named}) > 1

    def tell(self, key: str, **values: object) -> str:
        return text(f"report.data.{key}", self.language, **values)

    def named(self, group: str, name: str) -> str:
        return words.named(group, name, self.language)

    def number(self, value: Any) -> str:
        return words.value(value, self.language)

    def section(self, files: Mapping[str, str]) -> Section:
        removed, changed, marked = self.removed(), self.changed(), self.marked()
        left_out = sum(step.count for step in removed)
        findings = self.findings((*removed, *changed, *marked))
        points = sum(not one.idle for one in (*removed, *marked))
        points += sum(one.severity in ("error", "warn") for one in findings)
        labels, more = self.labels()
        bad = any(one.severity == "error" for one in findings)
        return Section(
            name=self.name,
            language=self.language,
            verdict="bad" if bad else "look" if points else "ok",
            story=self.story(left_out, changed, marked, points),
            rows=self.rows,
            kept=self.kept,
            left_out=left_out,
            facts=self.facts(),
            columns=self.columns(),
            samples=self.samples(),
            splits=self.splits(),
            labels=labels,
            more_labels=more,
            notes=self.notes(),
            removed=removed,
            changed=changed,
            marked=marked,
            findings=findings,
            bins=tuple((float(b["low"]), float(b["high"]), int(b["count"])) for b in self._bins()),
            marks=self.marks(),
            counted=self.counted(),
            files=tuple((name, files[name], self.tell(f"file.{name}")) for name in FILES if name in files),
        )

    def story(self, left_out: int, changed: Sequence[Step], marked: Sequence[Step], points: int) -> tuple[str, ...]:
        """What happened, in some sentences."""
        values = {"file": self.name, "rows": self.number(self.rows)}
        values |= {"kept": self.number(self.kept), "removed": self.number(left_out)}
        told = [self.tell("story" if left_out else "story_all", **values)]
        for key, steps in (("story_changed", changed), ("story_marked", marked)):
            count = sum(step.count for step in steps)
            told += [self.tell(key, count=self.number(count))] if count else []
        last = "clean" if not points else "attention_one" if points == 1 else "attention"
        return (*told, self.tell(last, count=points))

    def facts(self) -> tuple[tuple[str, str], ...]:
        """The file in a few lines."""
        get = self.profile.get
        written, _, shape = str(get("format") or "").partition("/")
        shape = str(get("shape") or shape)
        tokens = get("tokens") or {}
        rows = [
            ("file", self.name),
            ("format", f"{written}, {get('encoding')}" if get("encoding") else written),
            ("shape", self.named("shape", shape) if shape else ""),
            ("task", self.named("task", str(get("task") or ""))),
            ("language", self.named("word.language", str(get("language") or ""))),
            ("domain", self.named("word.domain", str(get("domain") or ""))),
            ("modality", self.named("word.modality", str(get("modality") or ""))),
        ]
        if get("turns_mean"):
            rows.append(("turns", self.tell("f.turns_words", mean=self.number(float(get("turns_mean") or 0)))))
        if tokens.get("max"):
            shown = {name: self.number(round(float(tokens.get(name) or 0))) for name in ("p50", "max", "total")}
            rows.append(("lengths", self.tell("f.lengths_words", **shown)))
        return tuple((self.tell(f"f.{name}"), value) for name, value in rows if value)

    def columns(self) -> tuple[tuple[str, str, str, str], ...]:
        """How the columns are read."""
        columns = self.profile.get("columns") or {}
        first = self.profile.get("first") or {}
        found = []
        for role, name in columns.items():
            key = f"report.column_means.{role}"
            means = text(key, self.language) if has_text(key, self.language) else ""
            found.append((self.named("column", str(role)), means, str(name), str(first.get(role) or "")))
        return tuple(found)

    def samples(self) -> tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...]:
        """The first rows as they will be trained on."""
        shown = self.profile.get("samples") or [self.profile.get("first") or {}]
        found = []
        for one in shown:
            twice = "assistant" if one.get("assistant") == one.get("label") else ""  # a label is its own answer
            roles = [role for role in SAID if one.get(role) and role != twice]
            said = tuple((role, self.named("column", role), str(one[role])) for role in roles)
            if said:
                found.append((self.place(one), said))
        return tuple(found)

    def splits(self) -> tuple[tuple[str, int, str, str], ...]:
        """Rows in each part."""
        found = []
        for name, total in (self.profile.get("splits") or {}).items():
            rows = int(total) - (self.too_long if name == "train" else 0)
            means = self.tell(f"{name}_is") if name in SPLITS else ""
            found.append((self.named("split", str(name)), rows, self._share(rows, self.kept), means))
        return tuple(found)

    def labels(self) -> tuple[tuple[tuple[str, int, float, tuple[int, ...]], ...], int]:
        """Rows by label, and how many labels are not shown."""
        counts = {str(name): int(rows) for name, rows in (self.profile.get("labels") or {}).items()}
        parts = self.profile.get("label_splits") or {}
        most = max(counts.values(), default=1)
        shown = [
            (name, rows, rows / most, tuple(int((parts.get(part) or {}).get(name, 0)) for part in SPLITS))
            for name, rows in list(counts.items())[:MOST_LABELS]
        ]
        return tuple(shown), max(0, len(counts) - MOST_LABELS)

    def notes(self) -> tuple[str, ...]:
        """What is to be said about the division."""
        near, own = self.profile.get("near") or {}, self.profile.get("own_sets") or {}
        found = []
        if near.get("groups"):
            found.append(self.tell("near", rows=self.number(near.get("rows")), groups=self.number(near["groups"])))
        for name in ("validation", "test"):
            if name in own:
                values = {"count": self.number(own[name]), "overlap": self.number(own.get(f"overlap_{name}", 0))}
                found.append(self.tell("own", name=self.named("split", name), **values))
        if own.get("removed_from_train"):
            found.append(self.tell("own_taken", count=self.number(own["removed_from_train"])))
        return tuple(found)

    def removed(self) -> tuple[Step, ...]:
        """Why rows were left out."""
        counts = dict(self.profile.get("removed") or {}) | {"removed_too_long": self.too_long}
        return self._steps("removed", counts, self.rows)

    def changed(self) -> tuple[Step, ...]:
        """What was done to rows."""
        masked = {f"masked_{kind}": n for kind, n in (self.profile.get("redacted") or {}).items()}
        return self._steps("changed", dict(self.profile.get("tidied") or {}) | masked, self.kept)

    def marked(self) -> tuple[Step, ...]:
        """What is to be looked at."""
        counts = dict(self.profile.get("flagged") or {})
        parts = {k for k in counts for kind, before in PARTS.items() if k.startswith(before) and k != kind}
        return self._steps("marked", {k: n for k, n in counts.items() if k not in parts}, self.kept)

    def _steps(self, group: str, counts: Mapping[str, int], total: int) -> tuple[Step, ...]:
        steps = [self._step(group, str(kind), int(count), total) for kind, count in counts.items() if count]
        return tuple(sorted(steps, key=lambda one: (ORDER.get(one.severity, 3), one.idle, -one.count)))

    def _step(self, group: str, kind: str, count: int, total: int) -> Step:
        meant = "masked" if kind.startswith("masked_") else kind
        why = self._text(f"report.{_WHY[group]}.{meant}")
        problem = self._problem(_FIX[group] + kind) or self._problem(kind)
        todo = self._todo(group, kind) or (str(problem.get("fix") or "") if problem else "")
        before = PARTS.get(kind, "") if group == "marked" else ""
        flagged = self.profile.get("flagged") or {}
        parts = {k: n for k, n in flagged.items() if before and k.startswith(before) and k != kind}
        return Step(
            kind=kind,
            name=self.named(_NAMES[group], kind),
            count=count,
            share=self._share(count, total),
            why=why or (str(problem["message"]) if problem else ""),
            todo=todo,
            idle=group == "changed" or todo.startswith(self.tell("nothing")),
            severity=str(problem["severity"]) if problem else "warn" if group == "removed" else "flag",
            parts=tuple((self.named("problem", k), int(n)) for k, n in sorted(parts.items(), key=lambda x: -x[1])),
            examples=self._examples(group, kind),
        )

    def _todo(self, group: str, kind: str) -> str:
        if kind.startswith("masked_"):
            return self._text("data.redacted_fix")
        if kind == "removed_too_long":
            return self._text("data.too_long_rows_fix")
        return self._text(f"data.{_FIX[group]}{kind}_fix") or self._text(f"data.{kind}_fix")

    def _text(self, key: str) -> str:
        return text(key, self.language) if has_text(key, self.language) else ""

    def _problem(self, kind: str) -> Mapping[str, Any] | None:
        return next((p for p in self.problems if p.get("kind") == kind), None)

    def _examples(self, group: str, kind: str) -> tuple[Example, ...]:
        """Rows that the profile names; for what could not be read at all the places in the problems."""
        both = kind == "near_duplicate" and (self.profile.get("removed") or {}).get(kind)
        if group == "marked" and both:  # under one name the profile keeps those that were removed
            return ()
        shown = (self.profile.get("examples") or {}).get(kind) or []
        if shown:
            return tuple(self._example(one) for one in shown)
        kin = (kind, *KIN.get(kind, ())) if group == "removed" else (kind,)
        lost = [p for p in self.problems if p.get("kind") in kin and p.get("line")]
        return tuple(Example(self.place(p), (Piece(str(p.get("message") or "")),)) for p in lost[:MOST_PLACES])

    def _example(self, one: Mapping[str, Any]) -> Example:
        before, after = (self._spoken(str(one.get(name) or "")) for name in ("before", "after"))
        if after:
            return Example(self.place(one), *differences(before, after))
        cells = records.cells(before)
        if cells:
            empty = self.tell("empty")
            named = ((self.named("role", k) if k in records.ROLES else k, v if v.strip() else empty) for k, v in cells)
            return Example(self.place(one), cells=tuple(named))
        return Example(self.place(one), (Piece(before),) if before else ())

    def _spoken(self, shown: str) -> str:
        """An excerpt of several turns, one a line, with the reader's words for who speaks."""
        return records.spoken(shown, lambda role: self.named("role", role))

    def findings(self, steps: Sequence[Step]) -> tuple[Finding, ...]:
        """The problems that no step covers, each kind once, the worst first."""
        covered = {before + step.kind for step in steps for before in ("", "removed_", "tidied_")}
        covered |= {kin for step in steps for kin in KIN.get(step.kind, ())}
        covered |= {"own_set"} | ({"redacted"} if any(s.kind.startswith("masked_") for s in steps) else set())
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for one in self.problems:
            kind, severity = str(one.get("kind")), str(one.get("severity"))
            if severity == "error" or kind not in covered:
                groups.setdefault((kind, severity), []).append(one)
        found = []
        for (kind, severity), some in groups.items():
            places = [self.place(p) for p in some] if len(some) > 1 else []
            message, fix = str(some[0].get("message") or ""), str(some[0].get("fix") or "")
            found.append(Finding(kind, severity, message, fix, len(some), tuple(p for p in places if p)))
        return tuple(sorted(found, key=lambda one: ORDER.get(one.severity, 3)))

    def place(self, one: Mapping[str, Any]) -> str:
        """Where a row stands: its line, else its number; with its file where there are several."""
        if one.get("line"):
            at = self.tell("at_line", line=one["line"])
        elif one.get("row"):
            at = self.tell("at_row", row=one["row"])
        else:
            return _file(one) if self.several and one.get("file") else ""
        return self.tell("at_file", file=_file(one), place=at) if self.several and one.get("file") else at

    def _bins(self) -> Sequence[Mapping[str, Any]]:
        return self.profile.get("token_histogram") or ()

    def marks(self) -> tuple[tuple[str, float], ...]:
        """Median, 95th percentile and longest, of the lengths in tokens."""
        tokens = self.profile.get("tokens") or {}
        named = (("p50", "m50"), ("p95", "m95"), ("max", "mmax"))
        return tuple(
            (self.tell(key, n=self.number(round(float(tokens[name])))), float(tokens[name]))
            for name, key in named
            if tokens.get(name)
        )

    def counted(self) -> str:
        """What the model's own tokenizer counted, once it has."""
        tokens = self.recount.get("tokens") or {}
        if not tokens.get("max"):
            return ""
        shown = {name: self.number(round(float(tokens.get(name) or 0))) for name in ("p50", "p95", "max")}
        return self.tell("i.counted", **shown)

    def _share(self, part: int, whole: int) -> str:
        return words.percent(part / whole if whole else 0.0, self.language)


def short_path(path: str, language: str) -> str:
    """The last part of a path; of several files how many they are. Folders of this machine are nobody's business."""
    names = [Path(one.strip()).name or one.strip() for one in path.split(", ")] if path else []
    if len(names) > 3:
        return text("report.data.files_of", language, count=len(names))
    return ", ".join(names)


def _file(one: Mapping[str, Any]) -> str:
    """The file of a row, with its place in an archive."""
    name = Path(str(one.get("file") or "")).name
    return f"{name} ({one['member']})" if one.get("member") else name

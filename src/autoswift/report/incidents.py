"""What went wrong in a run, each incident told once: what happened, what was changed, what it cost, how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoswift.domain.trial import FINAL_TRAINING
from autoswift.recover.remedies import by_rate
from autoswift.report import words
from autoswift.tables import has_text, text

Row = Mapping[str, Any]


@dataclass(slots=True)
class Incident:
    """One thing that went wrong with a training.

    Attributes:
        kind: `remedy` where it was answered, `note` for a warning, `symptom` where it was not.
        trial, attempt: that it struck; trial 0 is the final training.
        happened: in words. evidence: as it was seen.
        changed: each change in words. because: the reason. holds: for which trainings. lost: of the quality.
        cost: in words. ended: what became of the trial. options: what the user may do.
        seconds: device-seconds that were thrown away.
    """

    kind: str
    trial: int
    attempt: int
    happened: str
    evidence: str = ""
    changed: list[str] = field(default_factory=list)
    because: str = ""
    holds: str = ""
    lost: str = ""
    cost: str = ""
    ended: str = ""
    options: list[str] = field(default_factory=list)
    seconds: float = 0.0
    time: float = 0.0
    symptom: str = ""


def incidents(events: Iterable[Row], trials: Sequence[Row], language: str) -> list[Incident]:
    """The incidents of a run in the order in which they happened.

    Args:
        events: lines of events.jsonl. trials: lines of trials.jsonl and training.jsonl. language: zh or en.
    """
    teller = _Teller(trials, language)
    found: list[Incident] = []
    for row in events:
        kind = row.get("kind")
        if kind == "symptom":
            found.append(teller.symptom(row))
        elif kind in ("remedy", "gave_up"):
            one = _last(found, row)
            if one is None:
                one = teller.symptom(dict(row) | {"symptom": _symptom_of(row)})
                found.append(one)
            if kind == "remedy":
                teller.remedy(one, row)
            else:
                one.options = [text(f"recover.option.{name}", language) for name in row.get("options") or ()]
    found += teller.interruptions()
    found.sort(key=lambda one: one.time)
    for one in found:
        teller.end(one)
    return found


def wasted(found: Iterable[Incident]) -> float:
    """Device-seconds that all incidents threw away."""
    return sum(one.seconds for one in found)


class _Teller:
    def __init__(self, trials: Sequence[Row], language: str) -> None:
        self.language = language
        self.ended: dict[tuple[int, int], Row] = {}
        self.finals: dict[int, Row] = {}
        for row in trials:
            if row.get("event") == "ended":
                self.ended[int(row["trial"]), int(row.get("attempt") or 1)] = row
                if row.get("final", True):
                    self.finals[int(row["trial"])] = row

    def phrase(self, key: str, **values: object) -> str:
        return text(f"report.incident.{key}", self.language, **values)

    def symptom(self, row: Row) -> Incident:
        name = str(row.get("symptom", ""))
        phase = str(row.get("phase") or "")
        happened = words.named("symptom", name, self.language)
        if phase and name.endswith("_out_of_memory"):
            happened = self.phrase("in_phase", what=happened, phase=words.named("phase", phase, self.language))
        evidence = row.get("evidence")
        one = Incident(
            kind="note" if row.get("warning") else "symptom",
            trial=int(row.get("trial") or 0),
            attempt=int(row.get("attempt") or 1),
            happened=happened,
            evidence=words.value(evidence, self.language) if evidence else "",
            time=float(row.get("time") or 0.0),
            symptom=name,
        )
        if not row.get("warning"):
            outcome = (self.ended.get((one.trial, one.attempt)) or {}).get("outcome") or {}
            seconds = row.get("wasted_device_seconds")
            one.seconds = float(outcome.get("device_seconds") or 0.0) if seconds is None else float(seconds)
            one.cost = self.phrase("cost", seconds=words.duration(one.seconds, self.language))
        return one

    def remedy(self, one: Incident, row: Row) -> None:
        """Adds what was done."""
        decision = row.get("decision") or {}
        one.kind = "note" if one.kind == "note" else "remedy"
        one.because = str(decision.get("because") or "")
        before, changes = row.get("before") or {}, row.get("changes") or {}
        one.changed = [self._change(name, before.get(name), value) for name, value in changes.items()]
        one.changed = [words_ for words_ in one.changed if words_]
        if "per_device_train_batch_size" in changes:
            one.changed.append(self.phrase("same_batch"))
        if row.get("revision"):
            one.holds = self.phrase("holds", revision=row["revision"])
        if row.get("downgrades"):
            one.lost = self.phrase("lost")
        wait = float(row.get("wait_seconds") or 0.0)
        if not changes:
            one.changed = [self.phrase("repeated")]
        if wait and one.kind != "note":
            one.cost = self.phrase(
                "cost_and_wait",
                seconds=words.duration(one.seconds, self.language),
                wait=words.duration(wait, self.language),
            )

    def _change(self, name: str, before: Any, after: Any) -> str:
        if name == "flags":
            return ""
        key = f"report.incident.change.{name}"
        if isinstance(after, bool):
            key += "" if after else ".off"
        values = {"before": words.value(before, self.language), "after": words.value(after, self.language)}
        if before is None and not isinstance(after, bool):  # records from before the earlier value was kept
            return f"{name} {values['after']}"
        if has_text(key, self.language):
            return text(key, self.language, **values)
        return self.phrase("change", name=name, **values)

    def interruptions(self) -> list[Incident]:
        """Attempts whose owner died: nobody was there to write an event."""
        found = []
        for (trial, attempt), row in self.ended.items():
            outcome = row.get("outcome") or {}
            if outcome.get("symptom") != "interrupted":
                continue
            one = self.symptom({"symptom": "interrupted", "trial": trial, "attempt": attempt, "time": row.get("time")})
            one.kind, one.changed = "remedy", [self.phrase("resumed")]
            found.append(one)
        return found

    def end(self, one: Incident) -> None:
        """Says what became of the trial."""
        if one.symptom == "disk_full" or one.options:
            one.ended = self.phrase("stopped")
            return
        final = self.finals.get(one.trial)
        if final is None or one.kind == "note":
            return
        outcome, attempt = final.get("outcome") or {}, int(final.get("attempt") or 1)
        if outcome.get("status") != "failed":
            if attempt > one.attempt:
                one.ended = self.phrase("recovered", attempt=attempt)
        elif attempt > one.attempt:
            one.ended = self.phrase("failed_again")
        elif one.trial == FINAL_TRAINING:
            one.ended = self.phrase("final_lost")
        else:
            one.ended = self.phrase("by_rate" if by_rate(one.symptom) else "given_up")


def _last(found: Sequence[Incident], row: Row) -> Incident | None:
    """The newest incident of the same attempt that has no answer yet."""
    trial, attempt = int(row.get("trial") or 0), int(row.get("attempt") or 1)
    return next(
        (one for one in reversed(found) if (one.trial, one.attempt) == (trial, attempt) and not one.because), None
    )


def _symptom_of(row: Row) -> str:
    name = str((row.get("decision") or {}).get("name") or row.get("symptom") or "unknown")
    return name.removeprefix("recovery.")

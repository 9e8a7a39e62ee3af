"""What the report's template shows, read from the record; every part may be missing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from autoswift.domain.plan import Plan
from autoswift.report import charts, costs, outcome, words
from autoswift.report.commands import command_line, commands_of
from autoswift.report.data import drawn, section
from autoswift.report.front import fronts
from autoswift.report.history import TrialHistory, fold
from autoswift.report.incidents import incidents, wasted
from autoswift.report.origin import origin
from autoswift.report.spent import spent_of
from autoswift.run.clock import seconds_spent
from autoswift.run.record import RunRecord
from autoswift.tables import text

STAGES = (
    "understand",
    "hardware",
    "plan",
    "probe",
    "fetch",
    "recount",
    "trace",
    "memory",
    "search",
    "train",
    "merge",
    "evaluate",
    "export",
    "deploy",
    "loadtest",
    "report",
    "learn",
)
"""In the order in which a run goes through them."""


class Source:
    """Everything in a run folder that the report reads, read once.

    Args:
        record: the run.
        language: of the report.
    """

    def __init__(self, record: RunRecord, language: str) -> None:
        self.record, self.language = record, language
        self.state = record.state()
        self.task = record.task()
        self.plans = record.plans()
        self.plan: Plan | None = self.plans[-1] if self.plans else None
        self.events = record.journal.events()
        self.trials = fold(record.journal.trials())
        self.steps: dict[str, dict[str, Any]] = {}
        for name in STAGES:
            step = record.step(name)
            if step is not None:
                self.steps[name] = step["result"]

    def value(self, stage: str) -> dict[str, Any]:
        """What a stage left, or an empty dict."""
        value = self.steps.get(stage, {}).get("value")
        return value if isinstance(value, dict) else {}

    def say(self, key: str, **values: object) -> str:
        """A text of the report."""
        return text(f"report.{key}", self.language, **values)

    def missing(self, stage: str) -> str:
        """Why a stage left nothing."""
        for row in reversed(self.events):
            if row.get("kind") == "stage" and row.get("stage") == stage:
                if row.get("state") == "skipped" and row.get("why"):
                    return self.say("missing.skipped", why=row["why"])
                if row.get("state") == "failed":
                    return self.say("missing.failed", what=row.get("what") or row.get("error") or "")
                if row.get("state") == "started":
                    return self.say("missing.unfinished")
        error = self.state.get("error")
        if error:
            return self.say("missing.before", what=error.get("what", ""))
        reasons = (self.state.get("result") or {}).get("partial_reasons") or []
        if reasons:
            return self.say("missing.skipped", why="; ".join(map(str, reasons)))
        if stage in ("deploy", "loadtest") and self.task.target == "none":
            return self.say("missing.not_asked")
        return self.say("missing.not_yet")

    @property
    def metric(self) -> str | None:
        """The metric that the search maximises."""
        return self.plan.search.metric if self.plan else None

    @property
    def searched(self) -> list[TrialHistory]:
        """The search's trials, without the final training."""
        return [t for t in self.trials if t.number > 0]


def context(record: RunRecord, language: str) -> dict[str, Any]:
    """The template's variables."""
    source = Source(record, language)
    return {
        "run": _run(source),
        "headline": outcome.headline(source),
        "understood": _understood(source),
        "origin": origin(source.value("understand").get("sourced"), source.language),
        "data": _data(source),
        "decisions": _decisions(source),
        "revisions": [
            {"number": p.revision, "cause": p.cause, "changed": _changed(source, p.revision)} for p in source.plans
        ],
        "trials": _trials(source),
        "training": _training(source),
        "evaluation": outcome.evaluation(source),
        "checks": _checks(source),
        "serving": outcome.serving(source),
        "troubles": _troubles(source),
        "costs": _costs(source),
        "predictions": _predictions(source),
        "limits": outcome.limits(source),
        "commands": [command_line(env, argv) for env, argv in commands_of(record)],
        "versions": _versions(source),
        "missing": source.missing,
    }


def _run(source: Source) -> dict[str, Any]:
    state = source.state
    return {
        "id": state["id"],
        "created": time.strftime("%Y-%m-%d %H:%M", time.localtime(float(state.get("created", 0)))),
        "sentence": source.task.sentence,
        "state": _state(source),
        "error": state.get("error"),
        "reasons": (state.get("result") or {}).get("partial_reasons") or [],
        "task": source.task,
        "model": source.plan.model if source.plan else None,
        "spent": seconds_spent(source.events),
    }


def _state(source: Source) -> str:
    """The run's state; the report is written just before its end, when the result already stands in run.json."""
    state, result = str(source.state.get("state", "new")), source.state.get("result")
    if state == "running" and result:
        return "partial" if result.get("partial_reasons") else "done"
    return state


FACTS = ("goal", "domain", "language", "modality", "deploy", "hardware")


def _understood(source: Source) -> dict[str, Any] | None:
    profile = source.value("understand").get("task_profile")
    if not profile:
        return None
    evidence, sure = profile.get("evidence") or {}, profile.get("confidence") or {}
    rows = []
    for name in FACTS:
        found = profile.get(name)
        if not found or (name == "deploy" and found == "none"):
            continue
        shown = [found] if isinstance(found, str) else list(found)
        named = ", ".join(words.named(f"word.{name}", str(one), source.language) for one in shown)
        rows.append({"name": name, "value": named, "evidence": evidence.get(name, ""), "confidence": sure.get(name)})
    for name, found in (profile.get("constraints") or {}).items():
        rows.append({"name": name, "value": str(found), "evidence": evidence.get(name, ""), "confidence": None})
    return {"rows": rows, "assumptions": profile.get("assumptions") or []}


def _data(source: Source) -> dict[str, Any] | None:
    value = source.value("understand")
    profile = value.get("data_profile")
    if not profile:
        return None
    files = {str(name): str(path) for name, path in (value.get("files") or {}).items()}
    return drawn(section(profile, source.language, recount=source.value("recount"), files=files))


def _decisions(source: Source) -> list[Any]:
    return list(source.plan.decisions) if source.plan else []


def _changed(source: Source, revision: int) -> list[str]:
    for row in source.events:
        if row.get("kind") == "plan" and row.get("revision") == revision > 1:
            return [str(name) for name in row.get("changed") or []]
    return []


def _winner(source: Source) -> int | None:
    best = source.value("search").get("best")
    return int(best) if best is not None else None


def _trials(source: Source) -> dict[str, Any] | None:
    if not source.searched:
        return None
    best = _winner(source)
    names = list(dict.fromkeys(n for t in source.searched for n in t.parameters))
    named = {t.number: f"#{t.number}" for t in source.searched}
    series = [_series(t, named[t.number], best) for t in source.searched if len(t.losses) > 1]
    series.sort(key=lambda one: one.style == "best")
    dots = []
    for t in source.searched:
        reached, rate = t.metric(source.metric), t.parameters.get("learning_rate")
        if reached is not None and isinstance(rate, int | float) and t.status != "failed":
            dots.append((float(rate), reached, named[t.number], "best" if t.number == best else _style(t.number)))
    return {
        "rows": source.searched,
        "parameters": names,
        "best": best,
        "metric": source.metric,
        "reason": source.value("search").get("reason", ""),
        "legend": [(one.label, one.style) for one in sorted(series, key=lambda one: int(one.label[1:]))],
        "curves": charts.lines(source.say("trials.curves"), series),
        "scatter": charts.scatter(source.say("trials.scatter"), dots),
        "fronts": fronts(source.value("search").get("front"), source.language),
    }


def _style(number: int) -> str:
    return f"s{(number - 1) % 6}"


def _series(trial: TrialHistory, label: str, best: int | None) -> charts.Series:
    points = [(float(step), loss) for step, loss in trial.curve if loss is not None]
    style = "best" if trial.number == best else _style(trial.number)
    return charts.Series(label, points, style, broken=trial.status == "failed")


def _training(source: Source) -> dict[str, Any] | None:
    value = source.value("train")
    if not value:
        return None
    number = 0 if not value.get("promoted") else int(value.get("trial") or 0)
    trial = next((t for t in source.trials if t.number == number), None)
    curve = None
    if trial is not None and len(trial.losses) > 1:
        curve = charts.lines(source.say("training.curve"), [_series(trial, source.say("training.loss"), number)])
    validation = value.get("validation") or {}
    pairs = []
    for name in (source.metric, "nll"):  # a trial reports some twenty numbers; these two say how good it is
        tuned = (validation.get("tuned") or {}).get(name)
        if tuned is None:
            continue
        pairs.append({"name": name, "base": (validation.get("base") or {}).get(name), "tuned": tuned})
    return {
        "promoted": bool(value.get("promoted")),
        "trial": value.get("trial"),
        "parameters": value.get("parameters") or {},
        "metrics": {k: v for k, v in (value.get("metrics") or {}).items() if not isinstance(v, dict | list)},
        "validation": pairs,
        "curve": curve,
        "history": trial,
    }


def _checks(source: Source) -> list[dict[str, Any]]:
    found = []
    for stage in ("train", "merge", "export", "deploy"):
        for check in source.value(stage).get("checks") or []:
            row = check if isinstance(check, dict) else {"name": str(check), "passed": True, "measured": ""}
            found.append({"stage": stage, "measured": "", "passed": True} | row)
    return found


def _troubles(source: Source) -> dict[str, Any]:
    found = incidents(source.events, source.record.journal.trials(), source.language)
    rows: list[dict[str, Any]] = [{"kind": one.kind, "time": one.time, "incident": one} for one in found]
    for event in source.events:
        kind = event.get("kind")
        if kind == "note" and event.get("level") == "warn":
            rows.append(event | {"what": words.note(event, source.language)})
        elif kind == "stage" and event.get("state") == "failed":
            stopped = event.get("error") == "KeyboardInterrupt"
            rows.append(event | {"kind": "note" if stopped else "failed"})
            if stopped:
                stage = words.named("stage", str(event.get("stage")), source.language)
                rows[-1]["what"] = source.say("troubles.interrupted", stage=stage)
    rows.sort(key=lambda row: float(row.get("time") or 0.0))
    notes = [
        words.note(event, source.language)
        for event in source.events
        if event.get("kind") == "note" and event.get("level") != "warn"
    ]
    return {"rows": rows, "notes": notes, "wasted": wasted(found)}


def _costs(source: Source) -> dict[str, Any]:
    predicted = source.plan.estimate.stage_seconds if source.plan else {}
    rows = []
    for stage in STAGES:
        seconds = source.steps.get(stage, {}).get("seconds")
        if seconds is None:
            continue
        name = words.named("stage", stage, source.language)
        rows.append((name, float(seconds), words.duration(seconds, source.language), predicted.get(stage)))
    return {
        "chart": charts.bars(source.say("costs.chart"), rows),
        "device_seconds": sum(t.device_seconds for t in source.trials),
        "budget": source.task.budget,
        "spent": costs.shown(spent_of(source.record), source.task.budget, source.language),
    }


def _predictions(source: Source) -> list[dict[str, Any]]:
    """Rows {name, predicted, measured, ratio}; the texts are ready, ratio is measured / predicted."""
    if source.plan is None:
        return []
    estimate = source.plan.estimate
    rows: list[tuple[str, float, float, Callable[[Any], str]]] = []
    memory = max((t.memory_bytes for t in source.trials), default=0.0)
    rows.append(("memory", estimate.peak_memory_bytes, memory, words.size))
    rates = sorted(rate for t in source.trials for rate in t.rates)
    rate = rates[len(rates) // 2] if rates else 0.0
    rows.append(("rate", estimate.tokens_per_second, rate, words.number))

    def lasting(seconds: Any) -> str:
        return words.duration(seconds, source.language)

    for stage, expected in estimate.stage_seconds.items():
        took = source.steps.get(stage, {}).get("seconds")
        if expected and took is not None:
            rows.append((stage, expected, float(took), lasting))
    shown = []
    for name, expected, got, words_of in rows:
        if expected and got:
            group = "prediction" if name in ("memory", "rate") else "stage"
            label = words.named(group, name, source.language)
            if group == "stage":
                label = source.say("prediction.time", stage=label)
            pair = {"predicted": words_of(expected), "measured": words_of(got), "ratio": got / expected}
            shown.append({"name": label} | pair)
    return shown


def _versions(source: Source) -> list[tuple[str, str]]:
    rows: dict[str, str] = {}
    for event in source.events:
        if event.get("kind") == "session" and event.get("version"):
            rows["autoswift"] = str(event["version"])
    for stage in ("hardware", "search", "train", "evaluate", "export", "deploy"):
        rows |= {str(k): str(v) for k, v in (source.value(stage).get("versions") or {}).items()}
    machine = source.value("hardware").get("hardware") or {}
    if machine.get("platform"):
        rows[source.say("versions.platform")] = str(machine["platform"])
    profile = source.value("understand").get("data_profile") or {}
    if profile.get("sha256"):
        rows[source.say("versions.data")] = str(profile["sha256"])
    for name, sha in (source.value("fetch").get("hashes") or {}).items():
        rows[str(name)] = str(sha)
    return list(rows.items())

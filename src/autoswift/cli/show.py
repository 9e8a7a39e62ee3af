"""Plans, runs and results as Rich shows them, and as JSON values."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autoswift.cli.options import current, say
from autoswift.errors import InputError
from autoswift.report import words
from autoswift.report.history import TrialHistory, fold

if TYPE_CHECKING:
    from autoswift.domain.decision import Decision
    from autoswift.domain.plan import Plan
    from autoswift.domain.task import Task
    from autoswift.run.record import RunRecord

NOTHING = words.NOTHING
WIDE_ENOUGH = 120
"""Columns that the whole table of trials needs with two or three searched parameters."""
BLOCKS = "▁▂▃▄▅▆▇█"
STATUS_STYLE = {"finished": "green", "pruned": "yellow", "failed": "red", "running": "cyan", "proposed": "dim"}
STATE_STYLE = {"done": "green", "partial": "yellow", "failed": "red", "running": "cyan", "interrupted": "yellow"}


def foreign(shown: object, style: str = "") -> Text:
    """A text that is not ours: no markup in it counts, no control character reaches the terminal."""
    clean = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(shown))
    return Text(clean, style=style)


def plan_view(plan: Plan, task: Task, *, verbose: bool = False) -> RenderableType:
    """The decisions with their reasons, and what the plan expects to need."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    table.add_column(say("plan.setting"), style="cyan", overflow="fold")
    table.add_column(say("plan.value"), style="bold", overflow="fold", max_width=34)
    table.add_column(say("plan.because"), overflow="fold", ratio=1)
    for decision in plan.decisions:
        shown = words.value(decision.value, current.language)
        table.add_row(decision.name, foreign(shown), _reason(decision, verbose=verbose))
    head = Text.assemble((say("plan.title"), "bold"), "  ", foreign(task.sentence, "dim"))
    return Group("", head, "", Padding(table, (0, 0, 0, 1)), "", _estimate(plan), "")


def _reason(decision: Decision, *, verbose: bool) -> Text:
    reason = foreign(decision.because)
    if decision.source == "user":
        reason.append(f"  ({words.named('source', 'user', current.language)})", style="magenta")
    if not verbose:
        return reason
    for fact in decision.evidence:
        reason.append_text(foreign(f"\n· {fact.text}", "dim"))
    for other in decision.alternatives:
        line = say("plan.not", value=words.value(other.value, current.language), why=other.why_not)
        reason.append_text(foreign(f"\n{line}", "dim"))
    if decision.reverse_when:
        reason.append_text(foreign("\n" + say("plan.reverse", when=decision.reverse_when.text), "dim"))
    return reason


def _estimate(plan: Plan) -> Text:
    estimate = plan.estimate
    return Text.assemble(
        (say("plan.expects") + "  ", "dim"),
        say(
            "plan.expected",
            memory=words.size(estimate.peak_memory_bytes),
            limit=words.size(estimate.memory_limit_bytes),
            time=words.duration(estimate.total_seconds, current.language),
            trials=plan.search.trials,
        ),
        _cost(plan),
    )


def _cost(plan: Plan) -> str:
    """What it costs and whose price that is; empty in plans of before costs were counted."""
    from autoswift.hardware.money import amount, energy

    found = plan.estimate.cost
    if found is None:
        return ""
    shown = amount(found.money, found.currency, current.language) if found.money is not None else ""
    spent = energy(found.watt_hours, current.language)
    if not shown:
        return "\n" + say("plan.no_price", source=found.source, energy=spent)
    return "\n" + say("plan.cost", cost=shown, source=found.source, energy=spent)


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """A curve as block characters, newest at the right."""
    if not values:
        return ""
    step = max(1.0, len(values) / width)
    shown = [values[min(len(values) - 1, int((k + 1) * step) - 1)] for k in range(min(width, len(values)))]
    low, high = min(shown), max(shown)
    if high <= low:
        return BLOCKS[0] * len(shown)
    return "".join(BLOCKS[round((v - low) / (high - low) * (len(BLOCKS) - 1))] for v in shown)


def trials_table(
    trials: Sequence[TrialHistory], metric: str | None, best: int | None = None, *, width: int = WIDE_ENOUGH
) -> Table:
    """One row a trial; the final training stands last. A narrow terminal gets the columns that matter most."""
    names = list(dict.fromkeys(n for t in trials for n in t.parameters if t.number))
    wide = width >= WIDE_ENOUGH
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("#", justify="right", no_wrap=True)
    if wide:
        table.add_column(say("trials.origin"))
    for name in names:
        table.add_column(SHORT.get(name, name), justify="right")
    table.add_column(say("trials.loss"), no_wrap=True)
    if wide:
        table.add_column("nll", justify="right")
    table.add_column(words.named("metric", metric or "metric", current.language), justify="right", style="bold")
    if wide:
        table.add_column(say("trials.latency"), justify="right")
    table.add_column(say("trials.time"), justify="right")
    table.add_column(say("trials.status"), no_wrap=True, overflow="ellipsis")
    for t in sorted(trials, key=lambda one: (one.number == 0, one.number)):
        table.add_row(*_trial_cells(t, names, metric, best=best, wide=wide))
    return table


def _trial_cells(
    t: TrialHistory, names: Sequence[str], metric: str | None, *, best: int | None, wide: bool
) -> list[RenderableType]:
    language, latency = current.language, t.metrics.get("latency_seconds")
    mark = "★ " if best is not None and t.number == best else ""
    cells: list[RenderableType] = [
        Text(f"{mark}{t.number}" if t.number else say("trials.final"), style="bold" if mark else "")
    ]
    if wide:
        cells.append(foreign(words.named("origin", t.origin, language) if t.origin and t.number else NOTHING))
    cells += [words.value(t.parameters.get(name), language) for name in names]
    cells.append(Text.assemble((sparkline(t.losses), "blue"), f" {words.number(t.losses[-1])}" if t.losses else ""))
    if wide:
        cells.append(words.number(t.metrics.get("nll")))
    cells.append(words.number(t.metric(metric)))
    if wide:
        cells.append(words.duration(latency, language) if latency else NOTHING)
    cells.append(words.duration(t.device_seconds, language) if t.device_seconds else NOTHING)
    return [*cells, _status(t)]


SHORT = {"per_device_train_batch_size": "batch", "effective_batch_size": "batch", "lora_rank": "rank"}
"""Column heads: the long names would push the table off a terminal."""


def _status(t: TrialHistory) -> Text:
    language = current.language
    shown = words.named("status", t.status, language)
    if t.status == "running" and t.total_steps:
        shown = f"{shown} {t.step}/{t.total_steps}"
    text = Text(shown, style=STATUS_STYLE.get(t.status, ""))
    if t.failures:
        named = [words.named("symptom", name, language) for name in t.failures]
        text.append_text(foreign(f"  {', '.join(named)}", "dim"))
    return text


def as_value(record: RunRecord) -> dict[str, Any]:
    """`show --json`: run.json, the newest plan, the trials, what each step left, and the deployment as it is now."""
    from autoswift.report.context import STAGES
    from autoswift.report.spent import spent_of
    from autoswift.run.files import plain
    from autoswift.run.lock import is_owned

    plan = record.plan()
    metric = plan.search.metric if plan else None
    trials = [plain(t) | {"losses": t.losses, "metric": t.metric(metric)} for t in fold(record.journal.trials())]
    for row in trials:
        row.pop("curve", None)
        row.pop("rates", None)
    steps = {name: record.step(name) for name in STAGES}
    return record.state() | {
        "folder": str(record.folder),
        "active": is_owned(record.folder),
        "revisions": [{"revision": p.revision, "cause": p.cause} for p in record.plans()],
        "current_plan": plain(plan),
        "trials": trials,
        "steps": {name: step["result"] for name, step in steps.items() if step},
        "spent": plain(spent_of(record)),
        "deployment": deployment_status(record),
    }


def spent_line(record: RunRecord) -> str:
    """What the run cost so far, in one line; empty before anything was planned."""
    from autoswift.report.costs import line
    from autoswift.report.spent import spent_of

    return line(spent_of(record), current.language) if record.plan() is not None else ""


def deployment_status(record: RunRecord) -> dict[str, Any] | None:
    """The deployment as it is now, or None when there never was one."""
    from autoswift.serve.deploy import status

    return status(record.folder)


def result_view(record: RunRecord) -> RenderableType:
    """What a person wants to know when a run has ended."""
    language, state = current.language, record.state()
    result, deployed = state.get("result") or {}, record.value("deploy") or {}
    lines: list[RenderableType] = ["", _headline(result, language)]
    for reason in result.get("partial_reasons") or []:
        lines.append(Text.assemble(("! ", "yellow"), foreign(say("result.left_out", why=reason))))
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    if deployed.get("address"):
        rows.add_row(say("result.address"), Text(str(deployed["address"]), style="cyan"))
    rows.add_row(say("result.report"), foreign(record.folder / str(result.get("report") or "report.html")))
    shown = spent_line(record)
    if shown:
        rows.add_row(say("result.spent"), shown)
    rows.add_row(say("result.run"), foreign(f"{state['id']}  {record.folder}"))
    if deployed.get("address"):
        rows.add_row(say("result.stop"), f"autoswift stop {state['id']}")
    lines += ["", rows]
    if deployed.get("curl"):
        lines += ["", foreign(deployed["curl"])]
    return Group(*lines, "")


def _headline(result: dict[str, Any], language: str) -> Text:
    if result.get("tuned") is None:
        return Text(say("result.none"), style="yellow")
    metric = words.named("metric", str(result.get("metric", "")), language)
    text = Text.assemble(
        (f"{metric}  ", "bold"),
        (words.number(result.get("base")), "dim"),
        " → ",
        (words.number(result["tuned"]), "bold green"),
        f"   {words.signed(result.get('difference'))}",
    )
    if result.get("low") is not None:
        interval = say("result.interval", low=words.signed(result["low"]), high=words.signed(result.get("high")))
        text.append(f"  {interval}", style="dim")
    return text


def run_row(record: RunRecord) -> dict[str, Any]:
    """One run in `list --json`; of one whose run.json is damaged, that."""
    from autoswift.run.lock import is_owned

    try:
        state = record.state()
    except InputError:
        state = {"id": record.id, "state": "damaged"}
    result = state.get("result") or {}
    active = is_owned(record.folder)
    shown = state.get("state", "new")
    return {
        "id": state.get("id"),
        "state": "interrupted" if shown == "running" and not active else shown,
        "stage": state.get("stage", ""),
        "created": state.get("created"),
        "sentence": (state.get("task") or {}).get("sentence", ""),
        "metric": result.get("metric"),
        "base": result.get("base"),
        "tuned": result.get("tuned"),
        "address": result.get("address"),
        "folder": str(record.folder),
    }


def runs_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Every run on a line."""
    language = current.language
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(say("list.run"), no_wrap=True)
    for key in ("created", "state", "result"):
        table.add_column(say(f"list.{key}"), no_wrap=True)
    table.add_column(say("list.sentence"), overflow="ellipsis", no_wrap=True, ratio=1)
    for row in rows:
        made = time.strftime("%m-%d %H:%M", time.localtime(float(row["created"] or 0)))
        scores = f"{words.number(row['base'])} → {words.number(row['tuned'])}" if row["tuned"] is not None else "–"
        state = Text(words.named("state", row["state"], language), style=STATE_STYLE.get(row["state"], ""))
        table.add_row(str(row["id"]), made, state, scores, foreign(row["sentence"]))
    return table


def run_view(record: RunRecord, *, verbose: bool) -> RenderableType:
    """`show`: state, stages, plan, trials, result."""
    language, row = current.language, run_row(record)
    state = Text(words.named("state", row["state"], language), style=STATE_STYLE.get(row["state"], ""))
    parts: list[RenderableType] = [
        Text.assemble((str(row["id"]), "bold"), "  ", state, "  ", foreign(row["sentence"], "dim"))
    ]
    stages = stage_states(record.journal.events())
    if stages:
        parts += ["", stages_line(stages)]
    plan, trials = record.plan(), fold(record.journal.trials())
    if plan is not None and (verbose or not trials):
        parts.append(plan_view(plan, record.task(), verbose=verbose))
    if trials:
        best = (record.value("search") or {}).get("best")
        parts += ["", trials_table(trials, plan.search.metric if plan else None, best)]
        if weighed := (record.value("search") or {}).get("front"):
            parts.append(foreign(front_line(weighed), "dim"))
    error = record.state().get("error")
    if error:
        parts += [
            "",
            foreign(error.get("what", ""), "red"),
            foreign(error.get("why", "")),
            foreign(error.get("fix", "")),
        ]
    if record.state().get("result"):
        parts.append(result_view(record))
    shown = spent_line(record) if trials and not record.state().get("result") else ""
    if shown:
        parts.append(Text.assemble((say("result.spent") + "  ", "dim"), shown))
    deployed = deployment_status(record)
    if deployed:
        parts.append(Text.assemble((say("result.serving") + "  ", "dim"), say(f"serve.{deployed['state']}")))
    return Group(*parts)


def front_line(value: dict[str, Any]) -> str:
    """What a search of several objectives weighed, which trials no other beats, and which was taken."""
    names = [words.named_by(f"report.word.objective.{n}", n, current.language) for n in value["objectives"]]
    on = ", ".join(f"#{row['trial']}" for row in value["trials"] if row["front"])
    return say("front.title", objectives=", ".join(names), front=on, taken=f"#{value['taken']}")


def stage_states(events: Sequence[dict[str, Any]]) -> dict[str, tuple[str, float | None]]:
    """Each stage's newest state and seconds, in the order in which they began."""
    found: dict[str, tuple[str, float | None]] = {}
    for row in events:
        if row.get("kind") == "stage":
            found[str(row["stage"])] = (str(row["state"]), row.get("seconds"))
    return found


MARKS = {
    "finished": ("✓", "green"),
    "reused": ("✓", "dim green"),
    "failed": ("✕", "red"),
    "skipped": ("–", "dim"),
    "started": ("●", "cyan"),
}


def stages_line(stages: dict[str, tuple[str, float | None]], running: dict[str, float] | None = None) -> Columns:
    """The stages one after another, with a mark and the time each, in as many columns as the terminal has room for."""
    shown = []
    for name, (state, seconds) in stages.items():
        mark, style = MARKS.get(state, ("○", "dim"))
        took = (running or {}).get(name) if state == "started" else seconds
        text = Text(no_wrap=True)
        text.append(f"{mark} ", style=style)
        named = words.named("stage", name, current.language)
        text.append(named, style="bold" if state == "started" else "")
        if took is not None:
            text.append(f" {words.duration(took, current.language)}", style="dim")
        shown.append(text)
    return Columns(shown, padding=(0, 2))

"""A run as it goes: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoswift.cli.options import current, say
from autoswift.cli.show import foreign, stages_line, trials_table
from autoswift.report import words
from autoswift.report.history import TrialHistory, take

if TYPE_CHECKING:
    from autoswift.domain.plan import Plan
    from autoswift.domain.task import Task

LINE_SECONDS = 15.0
"""Between two progress lines where there is no terminal: a log stays readable."""
NOTES = 4
"""Newest remarks kept in view."""


class Display:
    """Listens to a run's journal and shows it.

    Args:
        console: where to; a terminal gets a live display, anything else a line for each important event.
        task: the request, for its budget.
    """

    def __init__(self, console: Console, task: Task) -> None:
        self.console, self.task = console, task
        self.metric: str | None = None
        self.stages: dict[str, tuple[str, float | None]] = {}
        self.begun: dict[str, float] = {}
        self.trials: dict[int, TrialHistory] = {}
        self.started: dict[int, float] = {}
        self.progress: dict[str, Any] = {}
        self.progress_begin = 0.0
        self.budget: dict[str, Any] = {}
        self.notes: list[Text] = []
        self._lock = threading.RLock()
        self._last_line = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self.render,
                console=self.console,
                refresh_per_second=4,
                transient=False,
                vertical_overflow="ellipsis",
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the display away while something else is printed or asked."""
        live = self._live
        if live is not None:
            live.transient = True
            live.stop()
        try:
            yield
        finally:
            if live is not None:
                live.transient = False
                live.start()

    def use_plan(self, plan: Plan) -> None:
        """Learns the metric's name."""
        self.metric = plan.search.metric

    def __call__(self, row: dict[str, Any]) -> None:
        """Takes one row of the journal; safe from any thread."""
        with self._lock:
            handler = getattr(self, f"_on_{row.get('kind')}", None)
            line = handler(row) if handler is not None else None
            if line is not None:
                self._say(line, keep=row.get("kind") in ("note", "symptom", "remedy"))

    def _say(self, line: Text, *, keep: bool) -> None:
        if keep:
            self.notes = [*self.notes[-(NOTES - 1) :], line]
        if self._live is None:
            self.console.print(Text.assemble((time.strftime("%H:%M:%S "), "dim"), line), soft_wrap=True)
            self._last_line = time.monotonic()

    def _on_stage(self, row: dict[str, Any]) -> Text | None:
        name, state = str(row["stage"]), str(row["state"])
        self.stages[name] = (state, row.get("seconds"))
        shown = words.named("stage", name, current.language)
        if state == "started":
            self.begun[name] = float(row.get("time") or time.time())
            self.progress = {}
            return Text(say("live.started", stage=shown))
        if state == "failed" and row.get("error") == "KeyboardInterrupt":
            return Text(say("live.interrupted", stage=shown), style="yellow")
        if state == "failed":
            return foreign(say("live.failed", stage=shown, what=row.get("what") or row.get("error") or ""), "red")
        if state == "skipped":
            return foreign(say("live.skipped", stage=shown, why=row.get("why") or ""))
        if row.get("seconds") is None:
            return Text(say("live.done", stage=shown))
        took = words.duration(row["seconds"], current.language)
        return Text(say(f"live.{state}", stage=shown, time=took))

    def _on_plan(self, row: dict[str, Any]) -> Text | None:
        if int(row.get("revision") or 1) < 2:
            return None
        changed = ", ".join(map(str, row.get("changed") or []))
        return foreign(say("live.replanned", cause=row.get("cause") or "", changed=changed or "–"))

    def _on_note(self, row: dict[str, Any]) -> Text:
        style = "yellow" if row.get("level") == "warn" else ""
        return foreign(words.note(row, current.language), style)

    def _on_symptom(self, row: dict[str, Any]) -> Text:
        named = words.named("symptom", str(row.get("symptom", "")), current.language)
        return foreign(say("live.symptom", trial=row.get("trial"), attempt=row.get("attempt"), symptom=named), "yellow")

    def _on_remedy(self, row: dict[str, Any]) -> Text:
        because = (row.get("decision") or {}).get("because", "")
        return foreign(say("live.remedy", trial=row.get("trial"), because=because), "green")

    def _on_budget(self, row: dict[str, Any]) -> None:
        self.budget = row | {"seen": time.time()}

    def _on_trial(self, row: dict[str, Any]) -> Text | None:
        trial = take(self.trials, row)
        if row.get("event") == "started":
            self.started[trial.number] = time.time()
        if row.get("event") == "ended":
            reached = trial.metric(self.metric)
            metric = words.named("metric", self.metric or "metric", current.language)
            status = words.named("status", trial.status, current.language)
            took = words.duration(trial.device_seconds, current.language)
            values = {"metric": metric, "value": words.number(reached), "status": status, "time": took}
            return Text(say("live.trial_ended", name=self._name(trial.number), **values))
        if row.get("event") == "progress" and self._live is None:
            return self._progress_line(trial)
        return None

    def _progress_line(self, trial: TrialHistory) -> Text | None:
        if time.monotonic() - self._last_line < LINE_SECONDS or not trial.losses:
            return None
        loss = words.number(trial.losses[-1])
        name = self._name(trial.number)
        return Text(say("live.progress", name=name, step=trial.step, total=trial.total_steps or "?", loss=loss))

    def _on_progress(self, row: dict[str, Any]) -> Text | None:
        if row.get("stage") != self.progress.get("stage") or row.get("text") != self.progress.get("text"):
            self.progress_begin = time.time()
        self.progress = row
        if self._live is not None or time.monotonic() - self._last_line < LINE_SECONDS:
            return None
        name = words.named("stage", str(row.get("stage", "")), current.language)
        return foreign(f"{name} {row.get('text') or ''} {_amount(row)}".replace("  ", " "))

    def _name(self, number: int) -> str:
        return say("live.trial", n=number) if number else words.named("stage", "train", current.language)

    def render(self) -> RenderableType:
        """The display: stages, what runs now, the trials, the budget, the newest remarks."""
        with self._lock:
            now = time.time()
            running = {name: now - begin for name, begin in self.begun.items()}
            parts: list[RenderableType] = [stages_line(self.stages, running)]
            bar = self._bar(now)
            if bar is not None:
                parts += ["", bar]
            if self.trials:
                parts += [
                    "",
                    trials_table(list(self.trials.values()), self.metric, self._best(), width=self.console.width),
                ]
            if self.budget:
                parts += ["", self._budget_line(now)]
            parts += ["", *self.notes] if self.notes else []
            return Group(*parts)

    def _best(self) -> int | None:
        """The finished trial that leads now."""
        done = [(t.metric(self.metric), t.number) for t in self.trials.values() if t.status == "finished" and t.number]
        reached = [(value, number) for value, number in done if value is not None]
        return max(reached)[1] if reached else None

    def _bar(self, now: float) -> RenderableType | None:
        active = [t for t in self.trials.values() if t.status == "running" and t.total_steps]
        stage = next((n for n, (state, _) in self.stages.items() if state == "started"), "")
        if stage in ("search", "train") and active:
            trial = active[-1]
            begin = self.started.get(trial.number, now)
            label, words_of = self._name(trial.number), ""
            done, total = float(trial.step), float(trial.total_steps)
        elif self.progress.get("total"):
            label = words.named("stage", str(self.progress.get("stage")), current.language)
            done, total, begin = (
                float(self.progress.get("done") or 0),
                float(self.progress["total"]),
                self.progress_begin,
            )
            words_of = str(self.progress.get("text") or "")
        else:
            return None
        left = (now - begin) * (total - done) / done if done else None
        grid = Table.grid(padding=(0, 1))
        for _ in range(4):
            grid.add_column(no_wrap=True)
        amount = f"{done:.0f}/{total:.0f}" if stage in ("search", "train") and active else _amount(self.progress)
        shown = say("live.left", time=words.duration(left, current.language)) if left is not None else ""
        grid.add_row(
            Text(label, style="cyan"),
            ProgressBar(total=max(total, 1), completed=min(done, total), width=30),
            Text(amount),
            Text.assemble((shown, "dim"), foreign(f"  {words_of}", "dim")),
        )
        return grid

    def _budget_line(self, now: float) -> Text:
        left = float(self.budget.get("seconds_left") or 0) - (now - float(self.budget["seen"]))
        started = int(self.budget.get("trials_started") or 0)
        spent = words.duration(self.budget.get("device_seconds"), current.language)
        values = {"time": words.duration(max(0.0, left), current.language), "device": spent}
        trials = max(0, self.task.budget.trials - started)
        return Text(say("live.budget", trials=trials, **values), style="dim")


def _amount(row: dict[str, Any]) -> str:
    """How far something is, in its unit."""
    done, total = row.get("done"), row.get("total")
    if row.get("unit") == "bytes":
        return f"{words.size(done)} / {words.size(total)}"
    return f"{words.number(done)}/{words.number(total)}" if total else words.number(done)

"""Between the plan and the search: is the memory what the plan says? A trace for odd shapes, a probe on long rows.

Each ends with the revision that is in force. What cannot be found out is a note, never the end of a run.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from autoswift.catalog.tokens import TokenCounter
from autoswift.decide.inputs import Inputs
from autoswift.decide.known_shape import is_known
from autoswift.decide.replan import (
    begin,
    counted,
    keep_revision,
    longest_row,
    needed_bytes,
    predicted,
    replanned,
    room_bytes,
    same_training,
    settings_of,
)
from autoswift.domain.artifact import StepResult
from autoswift.domain.decision import Decision, Evidence
from autoswift.domain.plan import Plan
from autoswift.domain.profile import GIB, Device
from autoswift.domain.protocols import TrainEngine
from autoswift.domain.trial import Trial
from autoswift.engines.peaks import remember_peak
from autoswift.engines.short import Short, engine_for, run_short, write_rows
from autoswift.engines.tracing import TRACE_SECONDS, Trace, request_of, trace
from autoswift.errors import AutoSwiftError, InputError
from autoswift.hardware.margins import Margin, comparable, margin_for, with_margin
from autoswift.hardware.shape import shape_of, shape_of_config
from autoswift.run.context import RunContext
from autoswift.run.places import child_environment, train_python
from autoswift.run.steps import Steps
from autoswift.tables import text

MATTERS = 0.03
"""A trace that differs by less changes nothing: the closed form's own error on traced shapes is below it."""
ROOMY = 2.0
"""On a CPU an upper bound of which the room holds twice as much is not worth a trace's half minute."""
TRACE_SHARE = 0.05
"""Of the wall-clock that is left, at most, for the trace."""
PROBE_SHARE = 0.1
"""Of the search's time, at most, for a start on the longest rows; a shorter search finds out by itself."""
ROUNDS = 4
"""Plans tried one after the other: from 16 rows a pass to 1 are four halvings, checkpointing and 4 bits mostly more."""
STEPS = 2
"""The optimizer's states are there from the second step on."""
LOOKED_AT = 64
"""Rows whose tokens are counted to find the longest: the longest by characters are nearly always among them."""
AFTER_OOM = 1.02
"""The margin after running out of memory, over the least that no longer fits: how much was missing is not known."""
Tracer = Callable[..., list[Trace]]


def trace_skipped(context: RunContext, plan: Plan, device: Device, room: int, model: Path) -> str:
    """Why no trace is made, in words; empty when one is.

    Args:
        room: bytes that the plan may use. model: the staged folder.
    """

    def say(key: str, **values: object) -> str:
        return text(f"plan.trace.{key}", context.task.language, **values)

    try:
        known = is_known(_config(model))
    except (OSError, ValueError, KeyError, TypeError):
        return say("no_config")
    if known:
        return say("known")
    if plan.training.devices > 1:
        return say("shared")
    need = needed_bytes(predicted(plan, device, plan.training.max_length))
    if device.kind == "cpu" and need * ROOMY <= room:
        return say("roomy", need=_gib(need), room=_gib(room))
    return ""


def trace_stage(context: RunContext, inputs: Any, plan: Plan, model: Path, tracer: Tracer = trace) -> StepResult:
    """Traces the training of a shape that stands in no table; makes the plan anew where that differs enough.

    Args:
        inputs: of the plan. plan: in force. model: the staged folder. tracer: as `tracing.trace`.
    """
    config = _config(model)
    begin(context, plan)
    device, planned = inputs.hardware.device, plan
    plan = _with_shape(plan, config, context)
    known = margin_for(inputs.margins, shape_of(plan.model).family, plan.training.method)
    longest = plan.training.max_length
    # What the plan counted with, over the closed form of the model's own numbers: 1 where the catalogue had them.
    in_force = predicted(planned, device, longest).peak_bytes / predicted(plan, device, longest).peak_bytes
    margin, seen = None, []
    for _ in range(ROUNDS):
        try:
            found = _traced(context, plan, device, config, tracer)
        except AutoSwiftError as exc:
            context.note(text("plan.trace.failed", context.task.language, evidence=exc.why or exc.what), "warn")
            break
        seen.append(found)
        ratio = found["traced"] / found["predicted"]
        matters = abs(ratio / in_force - 1) > MATTERS
        told = _trace_told(context, found, matters=matters)
        if not matters:
            context.journal.event("decision", decision=told)
            break
        # A trace knows nothing of what trainings here took beyond their own predictions.
        in_force = max(ratio, known.factor if known else 0.0)
        wanted = _margin(plan, in_force, ratio, "trace")
        new = _revised(context, inputs, plan, (wanted, told, "plan.cause.traced"))
        if new is None:
            break
        margin = wanted
        plan, before = new, plan
        if same_training(plan, before):
            break
    return StepResult(value={"revision": plan.revision, "traces": seen, "margin": margin})


def with_step_margin(inputs: Any, value: Any) -> Any:
    """The inputs with the margin that an earlier of these stages left, before all others."""
    if not value or not value.get("margin"):
        return inputs
    return replace(inputs, margins=(TypeAdapter(Margin).validate_python(value["margin"]), *inputs.margins))


def probe_skipped(context: RunContext, plan: Plan) -> str:
    """Why no steps on the longest rows come before the search, in words; empty when they do."""
    found = next((d for d in plan.decisions if d.name == "memory_probe"), None)
    if found is None or not plan.search.memory_probe:
        return found.because if found else text("decide.memory_probe.off", context.task.language)
    start, search = plan.search.start_seconds, plan.estimate.stage_seconds.get("search", 0.0)
    if found.source != "user" and start > PROBE_SHARE * search:
        return text("plan.memory.short", context.task.language, start=f"{start:.0f}", search=f"{search:.0f}")
    return ""


def memory_probe_stage(
    context: RunContext, inputs: Any, plan: Plan, engine: Callable[[Plan, Path, Path], TrainEngine] | None = None
) -> StepResult:
    """Trains two steps on the longest rows; the peak confirms the plan, or corrects it until it holds.

    Args:
        inputs: of the plan. plan: in force.
        engine: makes an engine from a plan, its folder and the training rows; the plan's own when None.
    """
    begin(context, plan)
    made = engine or _own_engine(context)
    measured: list[dict[str, Any]] = []
    spent = 0.0
    for attempt in range(1, ROUNDS + 1):
        folder = context.folder / "probes" / "memory"
        rows = write_rows(folder / "longest.jsonl", _longest(context, plan))
        short = run_short(made(plan, folder, rows), plan, inputs.hardware.device, _probe_trial(plan, attempt))
        spent += short.seconds * plan.training.devices
        shutil.rmtree(folder / "trials", ignore_errors=True)
        step = _Step(context, inputs, plan, short)
        measured.append(step.record() | {"attempt": attempt})
        if not short.out_of_memory and (short.symptom or not short.memory_bytes):
            reason = short.reason or short.symptom or "memory_bytes"
            context.note(text("plan.memory.no_peak", context.task.language, evidence=reason), "warn")
            break
        if not short.symptom:
            length = longest_row(context, plan)
            remember_peak(context, plan, inputs.hardware.device, (short.memory_bytes, length, -attempt, 1, True))
        if step.holds:
            context.journal.event("decision", decision=step.told("confirmed"))
            break
        told = step.told("out_of_memory" if short.symptom else "corrected")
        new = _revised(context, inputs, plan, (step.margin, told, "plan.cause.memory"))
        if new is None:
            break
        inputs = replace(inputs, margins=(step.margin, *inputs.margins))
        plan, before = new, plan
        if same_training(plan, before):
            break
    value = {"revision": plan.revision, "measured": measured}
    return StepResult(value=value, metrics={"device_seconds": round(spent, 3)})


class _Step:
    """What two steps on the longest rows say about the plan that they were made with."""

    def __init__(self, context: RunContext, inputs: Any, plan: Plan, short: Short) -> None:
        self.context, self.plan, self.short = context, plan, short
        device = inputs.hardware.device
        raw = predicted(plan, device, longest_row(context, plan))
        known = margin_for(inputs.margins, shape_of(plan.model).family, plan.training.method)
        in_force = known.factor if known else 1.0
        estimate = with_margin(raw, in_force)
        self.predicted, self.low, self.high = comparable(estimate, device.kind), estimate.low, estimate.high
        self.room = room_bytes(inputs)
        # The plan keeps room for a row as long as `max_length`, which is a little longer than the longest one.
        whole = predicted(plan, device, plan.training.max_length)
        if short.out_of_memory:
            least = max(1.0, (self.room - whole.context_bytes) / max(whole.high, 1))
            self.ratio = max(in_force, least) * AFTER_OOM
            self.holds = False
        else:
            self.ratio = short.memory_bytes / max(comparable(raw, device.kind), 1)
            fits = needed_bytes(with_margin(whole, self.ratio)) <= self.room
            self.holds = short.memory_bytes <= self.high and (fits or self.ratio <= in_force)

    @property
    def margin(self) -> Margin:
        return _margin(self.plan, max(self.ratio, 1.0), self.ratio, "probe")

    def record(self) -> dict[str, Any]:
        return {
            "memory_bytes": self.short.memory_bytes,
            "predicted": self.predicted,
            "low": self.low,
            "high": self.high,
            "symptom": self.short.symptom,
            "seconds": self.short.seconds,
            "micro_batch": self.plan.training.per_device_train_batch_size,
        }

    def told(self, how: str) -> Decision:
        language = self.context.task.language
        values = {
            "measured": _gib(self.short.memory_bytes),
            "predicted": _gib(self.predicted),
            "low": _gib(min(self.low, self.predicted)),
            "high": _gib(self.high),
            "micro": self.plan.training.per_device_train_batch_size,
            "length": longest_row(self.context, self.plan),
            "room": _gib(self.room),
        }
        words = text("plan.memory.range", language, **values)
        evidence = [Evidence(text=words, fact="predicted", value=self.predicted)]
        if not self.short.out_of_memory:
            words = text("plan.memory.peak", language, **values)
            evidence.append(Evidence(text=words, fact="memory_bytes", value=self.short.memory_bytes))
        return Decision(
            name="memory_measured",
            value=how,
            because=text(f"plan.memory.{how}", language, **values),
            evidence=tuple(evidence),
            source="measurement",
        )


def _own_engine(context: RunContext) -> Callable[[Plan, Path, Path], TrainEngine]:
    fetched = context.record.value("fetch")

    def made(plan: Plan, folder: Path, rows: Path) -> TrainEngine:
        return engine_for(
            plan,
            folder=folder,
            model=Path(fetched["path"]),
            python=train_python(),
            train=rows,
            validation=rows,
            system=fetched["system"],
        )

    return made


def _probe_trial(plan: Plan, attempt: int) -> Trial:
    training = plan.training
    limit = max(300.0, 3 * plan.search.start_seconds)  # a start from a cold disk, three times over
    flags = {name: value for name, value in training.flags.items() if name != "group_by_length"}  # it shuffles
    return Trial(
        number=attempt,
        attempt=1,
        parameters={},
        tokens=int(STEPS * training.effective_batch_size * max(plan.search.tokens_per_row, 1.0)),
        # Rows in the order in which they are written, so that the longest is in each forward pass.
        overrides={"max_steps": STEPS, "flags": flags | UNSHUFFLED},
        deadline=time.time() + limit,
    )


UNSHUFFLED = {"dataset_shuffle": "false", "train_dataloader_shuffle": "false"}


def _longest(context: RunContext, plan: Plan) -> list[dict[str, Any]]:
    """Rows for two steps: each forward pass has the longest row, and the next longest beside it."""
    training = plan.training
    counter = TokenCounter(Path(context.record.value("fetch")["path"]))
    path = context.folder / "data" / "train.fit.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: -sum(len(str(m["content"])) for m in row["messages"]))
    tokens = [counter.count(row["messages"]) for row in rows[:LOOKED_AT]]
    order = sorted(range(len(tokens)), key=lambda n: -tokens[n])
    passes = STEPS * training.gradient_accumulation_steps * training.devices
    each = [rows[order[n % len(order)]] for n in range(training.per_device_train_batch_size)]
    return [row for _ in range(passes) for row in each]


def _margin(plan: Plan, factor: float, ratio: float, source: str) -> Margin:
    family = shape_of(plan.model).family
    seen = round(ratio, 4)
    up = math.ceil(factor * 1e4) / 1e4
    return Margin(family=family, method="", factor=up, count=1, low=seen, high=seen, source=source)


def _revised(context: RunContext, inputs: Any, plan: Plan, what: tuple[Margin, Decision, str]) -> Plan | None:
    """The next revision, kept; None and a note when nothing fits any more: then the plan stands.

    Args:
        what: the margin, the decision that tells of it, and the text of the cause.
    """
    margin, told, cause = what
    language = context.task.language
    try:
        new = replanned(counted(context, inputs), plan, margin, text(cause, language), told)
    except InputError as exc:
        context.journal.event("decision", decision=told)
        context.note(text("plan.memory.nothing", language, evidence=exc.what), "warn")
        return None
    return keep_revision(context, new, plan)


def _config(model: Path) -> dict[str, Any]:
    found = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise TypeError("config.json holds no object")
    return found


def _with_shape(plan: Plan, config: dict[str, Any], context: RunContext) -> Plan:
    """The plan with the model's own numbers where the catalogue had none."""
    if not shape_of(plan.model).assumed:
        return plan
    try:
        shape = shape_of_config(config)
    except (KeyError, ValueError, TypeError, ZeroDivisionError):
        return plan
    names = ("layers", "hidden", "heads", "kv_heads", "intermediate", "vocabulary", "head_dim", "tied")
    counted_parameters = int(context.record.value("fetch").get("counted_parameters") or 0)
    parameters = counted_parameters or plan.model.parameters or shape.parameters
    model = replace(plan.model, parameters=parameters, **{name: getattr(shape, name) for name in names})
    return replace(plan, model=model)


def _traced(context: RunContext, plan: Plan, device: Device, config: dict[str, Any], tracer: Tracer) -> dict[str, Any]:
    """Bytes of live tensors: by the closed form, and traced."""
    training = plan.training
    settings = settings_of(training, device, training.max_length)
    estimate = predicted(plan, device, training.max_length)
    seconds = min(TRACE_SECONDS, max(30.0, TRACE_SHARE * context.clock.left))
    request = request_of(config, training.method, settings)
    found: Sequence[Trace] = tracer([request], train_python(), context.folder, child_environment(1), seconds)
    return {
        "traced": found[0].peak,
        "predicted": estimate.peak_bytes - estimate.parts.get("workspace", 0),
        "micro_batch": settings.micro_batch,
        "length": settings.length,
    }


def _trace_told(context: RunContext, found: dict[str, Any], *, matters: bool) -> Decision:
    language = context.task.language
    ratio = found["traced"] / found["predicted"]
    values = {"traced": _gib(found["traced"]), "predicted": _gib(found["predicted"]), "ratio": f"{ratio:.3f}"}
    values |= {"micro": str(found["micro_batch"]), "length": str(found["length"])}
    return Decision(
        name="memory_trace",
        value=round(ratio, 4),
        because=text("plan.trace.differs" if matters else "plan.trace.agrees", language, **values),
        evidence=(
            Evidence(text=text("plan.trace.traced", language, **values), fact="traced", value=found["traced"]),
            Evidence(text=text("plan.trace.predicted", language, **values), fact="predicted", value=found["predicted"]),
        ),
        source="measurement",
    )


def _gib(amount: float) -> str:
    return f"{amount / GIB:.2f}"


def fitted(context: RunContext, steps: Steps, inputs: Inputs, plan: Plan, model: Path) -> Plan:
    """The plan after its memory was traced, and measured on the longest rows, where that is worth it."""
    why = trace_skipped(context, plan, inputs.hardware.device, room_bytes(inputs), model)
    if why:
        steps.skip(("trace",), why)
    else:
        asked = steps.after("recount", "fetch")
        traced = steps.run("trace", asked, lambda: trace_stage(context, inputs, plan, model))
        inputs, plan = with_step_margin(inputs, traced.value), steps.plan_of("trace")
    why = probe_skipped(context, plan)
    if why:
        steps.skip(("memory",), why)
        return plan
    asked = steps.after("recount") | {"plan": plan.revision}
    steps.run("memory", asked, lambda: memory_probe_stage(context, inputs, plan))
    return steps.plan_of("memory")

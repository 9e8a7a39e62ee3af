"""How many trials, how long each, and how long everything takes: the budget made into tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.decide.spending import too_little_money
from autoswift.domain.plan import EvaluationSettings, ModelChoice
from autoswift.domain.profile import LengthStats
from autoswift.errors import InputError
from autoswift.hardware.shape import shape_of
from autoswift.hardware.speed import generation_tokens_per_second, stage_seconds, start_seconds
from autoswift.tables import explain, table

SLACK = 1.25
"""The reserve over the sum of its stages. On a quiet machine they differ by 15 % from run to run; the rest is for a
machine that is not ours alone, and what is left over goes to the load test."""

PROVED_ROWS = 4
"""Prompts that trainer and server are compared on."""

SERVER_READS = 2.0
"""How much longer the server takes to read a prompt than the trainer: it has one thread fewer (of two, half)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of a training row and of an answer."""

    row: LengthStats
    answer: LengthStats
    measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What the budget buys."""

    trials: int
    trial_tokens: int
    final_tokens: int
    epochs: float
    promote: bool
    batch: int
    reserve_seconds: float
    answer_seconds: float
    start_seconds: float
    stage_seconds: dict[str, float]
    validation_answers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Costs:
    """Seconds: of a trial beside its training, of its start, of its answers, of everything after the search."""

    trial: float
    start: float
    answers: float
    reserve: float
    stages: dict[str, float]
    reading: float
    generated: bool = True


def lengths(inputs: Inputs, model: ModelChoice) -> Lengths:
    """Token lengths: by the tokenizer once it is here, else from the characters."""
    if inputs.tokens is not None:
        return Lengths(row=inputs.tokens.rows, answer=inputs.tokens.answers, measured=True)
    rules = table("rules")["tokens"]
    cjk = float(rules["cjk_native"] if "zh" in model.languages else rules["cjk_foreign"])
    factor = inputs.data.cjk_share * cjk + (1 - inputs.data.cjk_share) * float(rules["latin"])
    overhead = float(rules["template_overhead"]) * max(inputs.data.turns_mean, 1.0)

    def scaled(stats: LengthStats, extra: float) -> LengthStats:
        values = [getattr(stats, n) * factor + extra for n in ("mean", "p50", "p95", "max")]
        return LengthStats(mean=values[0], p50=values[1], p95=values[2], max=values[3], total=stats.total * factor)

    return Lengths(
        row=scaled(inputs.data.characters, overhead), answer=scaled(inputs.data.answer_characters, 2.0), measured=False
    )


def epochs_for(rows: int) -> float:
    """Passes over the training rows when nothing else limits them."""
    for one in table("rules")["epochs"]:
        if one["rows_below"] is None or rows < one["rows_below"]:
            return float(one["epochs"])
    raise ValueError("rules.epochs has no last row")


def two_digits(tokens: float) -> int:
    """Rounded down to two significant digits: the speed that it comes from is known to no more."""
    scale = int(10 ** max(0, len(str(int(tokens))) - 2))
    return int(tokens) // scale * scale


def batch_for(tokens: float, tokens_per_row: float) -> int:
    """The largest power of two that still leaves `updates_wanted` updates in so many tokens."""
    rules = table("rules")["batch"]
    batch = int(rules["largest"])
    while batch > int(rules["smallest"]) and tokens / tokens_per_row / batch < float(rules["updates_wanted"]):
        batch //= 2
    return batch


def _costs(
    inputs: Inputs, model: ModelChoice, evaluation: EvaluationSettings, training_rate: float, length: Lengths
) -> _Costs:
    """Seconds beside training, by the speed model of this machine."""
    device, shape = inputs.hardware.device, shape_of(model)
    start = inputs.measured.start_seconds or start_seconds(shape, device)
    forward = float(table("rules")["schedule"]["forward_speed"])

    def generate(rows: int) -> float:
        # A row is read twice, for its answer and for its likelihood, at the speed of a forward pass. A batch goes on
        # until its longest answer ends, and a base model's seldom ends before the limit.
        batch = max(1, min(rows, evaluation.generation_batch_size))
        rate = generation_tokens_per_second(shape, device, parallel=batch)
        return 2 * reading(rows) + math.ceil(rows / batch) * batch * evaluation.max_new_tokens / rate

    def reading(rows: int) -> float:
        return rows * length.row.mean / (training_rate * forward)

    serve = inputs.task.target != "none"
    load = table("rules")["load_test"]["cpu" if inputs.on_cpu else "gpu"]["requests"]
    stages = {
        "fetch": _fetch_seconds(model, stage_seconds("fetch", shape, device)) if inputs.tokens is None else 0.0,
        # The worker that proves the merge stays for what follows.
        "merge": stage_seconds("merge", shape, device) + start,
        "evaluate": 2 * generate(evaluation.test_rows),
        "export": stage_seconds("convert", shape, device) if serve else 0.0,
        "deploy": stage_seconds("serve", shape, device) + (1 + SERVER_READS) * reading(PROVED_ROWS) if serve else 0.0,
        "loadtest": stage_seconds("loadtest", shape, device) + generate(sum(load)) if serve else 0.0,
        "report": 2.0,
    }
    reserve = sum(v for k, v in stages.items() if k != "fetch")
    answers = generate(evaluation.validation_rows)
    read = reading(evaluation.validation_rows)
    return _Costs(
        trial=start + answers, start=start, answers=answers, reserve=reserve * SLACK, stages=stages, reading=read
    )


def _search_time(inputs: Inputs, costs: _Costs) -> float:
    """Seconds for the search and the final training."""
    time = inputs.task.budget.seconds - inputs.seconds_spent - costs.reserve - costs.stages["fetch"]
    return min(time, inputs.task.budget.device_seconds_limit)


def _without_load_test(costs: _Costs) -> _Costs:
    """Nothing kept for the load test: it is the one stage that the result can do without."""
    stages = costs.stages | {"loadtest": 0.0}
    return replace(costs, reserve=costs.reserve - SLACK * costs.stages["loadtest"], stages=stages)


def _bare(costs: _Costs) -> _Costs:
    """The least that ends with a result: no load test, no slack, and a single trial that answers nothing.

    It is compared with no other, so that the likelihood of its validation rows says enough.
    """
    costs = _without_load_test(costs)
    return replace(
        costs,
        trial=costs.start + costs.reading,
        answers=costs.reading,
        reserve=costs.reserve / SLACK,
        generated=False,
    )


def _fetch_seconds(model: ModelChoice, download: float) -> float:
    """A folder is linked, the packaged model is unpacked (6 to 12 s measured), the rest is downloaded."""
    return {"folder": 2.0, "packaged": 12.0}.get(model.source, download)


def schedule(
    inputs: Inputs, model: ModelChoice, evaluation: EvaluationSettings, rate: float, length: Lengths, book: Book
) -> Schedule:
    """Splits the budget into trials and the final training.

    Args:
        rate: training tokens per second.
        length: of rows and answers.

    Raises:
        InputError: when the wall-clock does not even hold one short trial.
    """
    rules = table("rules")
    costs = _costs(inputs, model, evaluation, rate, length)
    row = max(length.row.mean, 1.0)
    rows = max(inputs.data.splits.get("train", 1), 1)
    epochs = _epochs(inputs, rows, book)
    full = int(rows * row * epochs)
    smallest = int(rules["batch"]["smallest"]) * int(rules["schedule"]["min_trial_updates"]) * row
    least = smallest * int(rules["schedule"]["least_updates"]) / int(rules["schedule"]["min_trial_updates"])
    device_time = _search_time(inputs, costs)
    if device_time < costs.trial + smallest / rate:
        costs = _without_load_test(costs)
        device_time = _search_time(inputs, costs)
    if device_time < costs.trial + least / rate:
        costs = _bare(costs)
        device_time = _search_time(inputs, costs)
    if device_time < costs.trial + least / rate:
        if _hopeless(inputs, costs, least / rate):
            raise _too_short(inputs, costs, least / rate)
        device_time = costs.trial + least / rate  # the trial's deadline cuts it to what there is
    capped = inputs.on_cpu and not inputs.task.full and "final_tokens" not in inputs.task.options
    cap = _cap(rate) if capped else float("inf")
    trials, tokens = _trials(inputs, (costs.trial, smallest), rate, device_time, cap)
    total = _say_cap(cap if capped else None, int(min(tokens, cap, full * (trials + 1))), tokens, book)
    waves = math.ceil(trials / inputs.lanes)  # trials that follow each other; those beside each other cost no time
    if total >= full * waves or trials == 1:
        trial_tokens = final_tokens = min(full, two_digits(total // waves))
        promote = True
    else:
        final_tokens = min(full, two_digits(total * float(rules["schedule"]["final_share"])))
        trial_tokens = min(final_tokens, two_digits((total - final_tokens) / waves))
        promote = False
    trials = _say_trials(inputs, trials, costs, book)
    trial_tokens = book.add(
        "trial_tokens",
        int(trial_tokens),
        book.say("trial_tokens.promote" if promote else "trial_tokens.part", trials=trials, full=full),
        evidence=[
            book.fact("tokens_per_second", round(rate, 1), book.say("rate", rate=f"{rate:.0f}")),
            book.fact("row_tokens", round(row, 1), book.say("row_tokens", tokens=f"{row:.0f}", rows=rows)),
        ],
        levers=("task.budget.money", "task.budget.hours", "task.full", "data.splits.train"),
        source="formula",
    )
    final_tokens = book.add(
        "final_tokens",
        int(final_tokens),
        book.say("final_tokens.promote" if promote else "final_tokens.part"),
        evidence=[book.fact("full_tokens", full, book.say("full_tokens", full=full, epochs=f"{epochs:g}"))],
        levers=("task.budget.money", "task.budget.hours", "task.full", "data.splits.train"),
        source="formula",
    )
    promote = trial_tokens >= final_tokens  # the user may have fixed either
    stages = dict(costs.stages)
    stages["search"] = trials * (costs.trial + trial_tokens / rate)
    stages["train"] = 0.0 if promote else costs.trial + final_tokens / rate
    return Schedule(
        trials=trials,
        trial_tokens=trial_tokens,
        final_tokens=final_tokens,
        epochs=epochs,
        promote=promote,
        batch=batch_for(trial_tokens, row),
        reserve_seconds=costs.reserve,
        answer_seconds=costs.answers,
        start_seconds=costs.start,
        stage_seconds=stages,
        validation_answers=_say_answers(costs, book),
    )


DISTURBED = 1.25
"""So much faster than measured a CPU may turn out to be, whose measurement another process disturbed. What is begun in
that hope is ended by its deadlines all the same."""


def _hopeless(inputs: Inputs, costs: _Costs, training: float) -> bool:
    """Whether the budget would be too short even on a machine that is as fast as this one may be."""
    budget = inputs.task.budget
    hope = DISTURBED if inputs.on_cpu and budget.money is None else 1.0  # what it costs is never hoped for
    trial = costs.trial + training
    whole = trial + costs.reserve + costs.stages["fetch"]
    return budget.seconds - inputs.seconds_spent < whole / hope or budget.device_seconds_limit < trial / hope


def _say_answers(costs: _Costs, book: Book) -> bool:
    """Told only where it is otherwise than usual."""
    if not costs.generated:
        book.add("validation_answers", False, book.say("validation_answers"), levers=("task.budget.hours",))
    return costs.generated


def _trials(inputs: Inputs, least: tuple[float, float], rate: float, time: float, cap: float) -> tuple[int, int]:
    """As many trials as asked for, fewer when each would be too short; and the tokens one lane has the time for.

    Args:
        least: seconds that a trial costs beside training, and tokens that it needs to say anything.
        time: seconds for search and final training. cap: tokens at most.
    """
    overhead, smallest = least
    rules = table("rules")["schedule"]
    safety = float(rules["token_safety"])
    trials = int(inputs.task.options.get("trials", inputs.task.budget.trials))
    while trials > 1:
        # One process more than trials: the final training.
        waves = math.ceil(trials / inputs.lanes)
        tokens = (time - (waves + 1) * overhead) * rate * safety
        share = 1 - float(rules["final_share"])
        if min(tokens, cap) * share / waves >= smallest:
            return trials, int(tokens)
        trials -= 1
    single = smallest * float(rules["least_updates"]) / float(rules["min_trial_updates"])
    return 1, int(max((time - overhead) * rate * safety, single))


def _epochs(inputs: Inputs, rows: int, book: Book) -> float:
    default = epochs_for(rows)
    return float(
        book.add(
            "epochs",
            default,
            book.say("epochs", rows=rows),
            levers=("data.splits.train",),
        )
    )


def _say_trials(inputs: Inputs, trials: int, costs: _Costs, book: Book) -> int:
    asked = inputs.task.budget.trials
    because = book.say("trials.asked", asked=asked) if trials == asked else book.say("trials.fewer", asked=asked)
    evidence = [
        book.fact("trial_seconds", round(costs.trial, 1), book.say("trials.cost", seconds=f"{costs.trial:.0f}")),
        book.fact("reserve_seconds", round(costs.reserve, 1), book.say("reserve", seconds=f"{costs.reserve:.0f}")),
    ]
    chosen: Any = book.add(
        "trials",
        trials,
        because,
        evidence=evidence,
        levers=("task.budget.trials", "task.budget.money", "task.budget.hours"),
        source="formula",
    )
    return int(min(chosen, asked))


def _cap(rate: float) -> float:
    """Tokens over all trials on a CPU: a first run is to end while one waits for it."""
    bounds = table("rules")["tokens"]
    return min(float(bounds["cpu_cap"]), max(float(bounds["cpu_least"]), two_digits(rate * bounds["cpu_seconds"])))


def _say_cap(cap: float | None, total: int, affordable: int, book: Book) -> int:
    capped = cap is not None and total < affordable
    key = "token_budget.cap" if capped else "token_budget.time"
    return int(
        book.add(
            "token_budget",
            two_digits(total),
            book.say(key, cap=int(cap or 0)),
            alternatives=[(affordable, book.say("token_budget.more"))] if capped else (),
            levers=("task.budget.money", "task.budget.hours", "task.full", "data.splits.train"),
            source="formula",
        )
    )


def _too_short(inputs: Inputs, costs: _Costs, training: float) -> InputError:
    need = (costs.reserve + costs.stages["fetch"] + costs.trial + training + inputs.seconds_spent) / 3600
    return too_little_money(inputs, need) or InputError(
        *explain("decide.too_short", hours=inputs.task.budget.hours, need=need, give=need * 1.1 + 0.005)
    )

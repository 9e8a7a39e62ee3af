"""The plan: a pure function of its inputs. Same inputs, byte-identical plan."""

from __future__ import annotations

from dataclasses import replace

from autoswift.decide.book import Book
from autoswift.decide.executor import choose_executor
from autoswift.decide.experience import begin
from autoswift.decide.inputs import Inputs
from autoswift.decide.objectives import objectives_for
from autoswift.decide.outputs import METRIC_BY_GOAL, evaluation_settings, serving_settings
from autoswift.decide.packing import choose_packing
from autoswift.decide.probes import choose_with_probes
from autoswift.decide.recovery import recovery_settings
from autoswift.decide.schedule import lengths, schedule
from autoswift.decide.search_shape import lanes_for, rungs_for
from autoswift.decide.spending import cost_of, with_price
from autoswift.decide.training import max_length, training_settings
from autoswift.decide.way import need_of, settle_fit
from autoswift.domain.plan import Estimate, ModelChoice, Plan, SearchSettings
from autoswift.errors import InputError
from autoswift.tables import explain, table


def make_plan(inputs: Inputs, *, revision: int = 1, cause: str = "", model: ModelChoice | None = None) -> Plan:
    """Decides everything that is decided before training.

    Args:
        inputs: what is known.
        revision: number of the plan; cause: why it is made anew.
        model: the model of the revision before; a later one never changes it silently.

    Raises:
        InputError: when the request cannot be carried out, with what is missing.
    """
    _check_supported(inputs)
    inputs = with_price(inputs)
    book = Book(inputs.task.options, inputs.task.language, inputs.decided)
    book.add(
        "goal",
        inputs.profile.goal,
        book.say("goal", evidence=inputs.profile.evidence.get("goal", "") or book.say("goal.default")),
        evidence=list(inputs.profile.assumptions),
        levers=("profile.goal",),
        instead=book.say("instead.goal"),
    )
    chosen, inputs = choose_with_probes(inputs, model, book)
    model = model or chosen
    length = lengths(inputs, model)
    longest = max_length(model, length, book)
    # The rate and the batch depend on each other by the micro-batch only; on one device the rate hardly moves
    # with it, so the batch is bounded from above here and settled by the schedule.
    need = need_of(inputs, length, longest)
    way = settle_fit(inputs, model, need, book)
    fit = way.fit
    lanes = lanes_for(inputs, fit.devices, book)
    # What the money buys depends on how many devices are held.
    inputs = replace(with_price(inputs, fit.devices * lanes), lanes=lanes)
    evaluation = evaluation_settings(inputs, length, book)
    timed = length.row.mean / fit.told_seconds if fit.told_seconds > 0 else 0.0
    rate = inputs.measured.tokens_per_second or timed or float(table("rules")["schedule"]["unknown_rate"])
    times = schedule(inputs, model, evaluation, rate, length, book)
    evaluation = replace(evaluation, validation_answers=times.validation_answers)
    rungs = rungs_for(inputs, times, max(length.row.mean, 1.0), rate, book)
    training, space = training_settings(inputs, model, way, times, length, book)
    start = begin(inputs, model, training.method, space, times.trials, book)
    objectives = objectives_for(inputs, book)
    place = choose_executor(inputs, training, fit.estimate.peak_bytes, book)
    packing = choose_packing(inputs, model, training, way, (times, place.executor, length.row.mean), book)
    reserved = times.stage_seconds["loadtest"] > 0
    serving = serving_settings(inputs, longest, evaluation.max_new_tokens, reserved, book)
    stages = times.stage_seconds | {"search": packing.search_seconds(times, rungs, rate, lanes)}
    stages |= {"probe": inputs.probe_seconds} if inputs.probe_seconds else {}
    return Plan(
        revision=revision,
        cause=cause,
        seed=inputs.task.seed,
        model=model,
        training=training,
        search=SearchSettings(
            trials=times.trials,
            space=start.space,
            start_points=start.points,
            memory_probe=way.memory_probe,
            rungs=rungs,
            lanes=lanes,
            packed=packing.trials,
            objectives=objectives,
            trial_tokens=times.trial_tokens,
            final_tokens=times.final_tokens,
            tokens_per_row=round(length.row.mean, 2),
            promote=times.promote,
            answer_seconds=round(times.answer_seconds, 1),
            start_seconds=round(times.start_seconds, 1),
            epochs=times.epochs,
            reserve_seconds=round(times.reserve_seconds, 1),
            metric=evaluation.metric,
            executor=place.executor,
            ray_address=place.ray_address,
            device_share=place.device_share,
        ),
        evaluation=evaluation,
        serving=serving,
        estimate=Estimate(
            peak_memory_bytes=fit.estimate.peak_bytes,
            memory_limit_bytes=inputs.hardware.device.free_bytes,
            tokens_per_second=round(rate, 1),
            stage_seconds={k: round(v, 1) for k, v in sorted(stages.items())},
            cost=cost_of(inputs, dict(sorted(stages.items())), book),
        ),
        decisions=book.finish(),
        recovery=recovery_settings(inputs, way),
    )


def _check_supported(inputs: Inputs) -> None:
    """Refuses what this version cannot carry out, with what is missing."""
    if inputs.profile.modality != "text":
        raise InputError(*explain("decide.modality", modality=inputs.profile.modality))
    if inputs.data.task != "sft" or inputs.profile.goal not in METRIC_BY_GOAL:
        raise InputError(*explain("decide.task", goal=inputs.profile.goal, task=inputs.data.task))
    if inputs.data.splits.get("train", 0) < 1 or inputs.data.splits.get("test", 0) < 1:
        raise InputError(*explain("decide.few_rows", rows=inputs.data.conversations))

"""How the result is measured, served and load-tested."""

from __future__ import annotations

import math

from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.decide.need import edge_box
from autoswift.decide.recommend import edge_format
from autoswift.decide.schedule import Lengths
from autoswift.domain.plan import EvaluationSettings, ServingSettings
from autoswift.errors import InputError
from autoswift.tables import explain, table, told

METRIC_BY_GOAL = {"chat": "chrf", "extraction": "field_f1", "classification": "macro_f1", "reasoning": "exact_match"}
"""CONTRACTS, Data and choice."""


def evaluation_settings(inputs: Inputs, length: Lengths, book: Book) -> EvaluationSettings:
    """Metric, rows and answer length. A short wall-clock makes the samples smaller, never below a bound."""
    rules = table("rules")["evaluation"]
    sizes = dict(rules["gpu" if inputs.task.full or not inputs.on_cpu else "cpu"])
    hours = inputs.task.budget.seconds / 3600  # those that the money buys, where it is the tighter limit
    shrink = min(1.0, hours / float(rules["short_hours"]))
    least = int(rules["smallest_rows"])
    splits = inputs.data.splits
    metric = METRIC_BY_GOAL[inputs.profile.goal]
    book.add(
        "metric",
        metric,
        book.say(f"metric.{metric}", goal=inputs.profile.goal),
        levers=("profile.goal",),
        instead=book.say("instead.metric"),
    )
    rows = {}
    for name, split in (("validation_rows", "validation"), ("test_rows", "test")):
        wanted = max(least, int(int(sizes[name]) * shrink))
        rows[name] = int(
            book.add(
                name,
                min(wanted, splits.get(split, 0)),
                book.say(f"{name}", have=splits.get(split, 0)),
                levers=(f"data.splits.{split}", "task.budget.hours", "task.full"),
            )
        )
        rows[name] = min(rows[name], splits.get(split, 0))
    cap = min(int(sizes["max_new_tokens"]), max(int(rules["smallest_answer"]), int(sizes["max_new_tokens"] * shrink)))
    need = max(8, math.ceil(length.answer.p95 / 8) * 8)
    answer = int(
        book.add(
            "max_new_tokens",
            min(cap, need),
            book.say("max_new_tokens", p95=f"{length.answer.p95:.0f}", cap=cap),
            levers=("tokens.answers.p95", "data.answer_characters.p95", "task.budget.hours", "task.full"),
            source="measurement" if length.measured else "formula",
        )
    )
    return EvaluationSettings(
        metric=metric,
        validation_rows=rows["validation_rows"],
        test_rows=rows["test_rows"],
        max_new_tokens=max(1, answer),
        generation_batch_size=int(rules["generation_batch_size"]["cpu" if inputs.on_cpu else "gpu"]),
    )


def _say_edge(inputs: Inputs, book: Book) -> None:
    """Which 4-bit format the edge box runs; what this run exports is `export_format`."""
    box = edge_box(inputs.profile)
    form, because, others = edge_format(box)
    book.add(
        "edge_format",
        form,
        because.words(book.language),
        evidence=[book.fact("edge_box_bytes", box.memory_bytes, f"{box.id}: {box.source}")],
        alternatives=[(name, why.words(book.language)) for name, why in others],
        instead=book.say("instead.edge_format"),
    )


def serving_settings(
    inputs: Inputs, max_length: int, max_new_tokens: int, load_test: bool, book: Book
) -> ServingSettings:
    """Engine, format and the load that it is tested with."""
    rules = table("rules")
    load = rules["load_test"]["cpu" if inputs.on_cpu else "gpu"]
    engine = "none" if inputs.task.target == "none" else "llamacpp"
    engine = str(
        book.add(
            "serve_engine",
            engine,
            book.say(f"serve.{engine}"),
            alternatives=[("transformers", book.say("serve.not_transformers")), ("vllm", book.say("serve.not_vllm"))],
            levers=("task.target",),
        )
    )
    if inputs.profile.deploy == "edge":
        _say_edge(inputs, book)
    form = "q8_0" if engine == "llamacpp" else "merged"
    form = str(
        book.add(
            "export_format",
            form,
            book.say(f"format.{form}"),
            alternatives=[("f16", book.say("format.not_f16"))] if form == "q8_0" else (),
            levers=("task.target",),
        )
    )
    allowed = ("q8_0", "f16") if engine == "llamacpp" else ("merged",)
    if form not in allowed:
        raise InputError(
            *explain("decide.export_format", form=form, engine=engine, allowed=told("error.decide.or").join(allowed))
        )
    if engine != "none":
        book.add(
            "load_test",
            ", ".join(str(n) for n in load["parallel"]),
            book.say("load_test" if load_test else "load_test.if_time"),
            levers=("task.budget.hours",),
            instead=book.say("instead.load_test"),
        )
    need = max_length + max_new_tokens + int(rules["serving"]["context_margin"])
    return ServingSettings(
        engine=engine,
        format=form,
        context=math.ceil(need / 256) * 256,  # llama.cpp pads its key-value cache to multiples of 256
        parallel=int(rules["serving"]["parallel"]),
        load_parallel=tuple(load["parallel"]),
        load_requests=tuple(load["requests"]),
    )

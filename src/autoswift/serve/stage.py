"""The stages `deploy` and `loadtest`."""

from __future__ import annotations

import json
from typing import Any

from autoswift.domain.artifact import Artifact, Kind, StepResult
from autoswift.domain.plan import Plan
from autoswift.engines.worker import ModelWorker
from autoswift.errors import PostCheckFailed
from autoswift.run.context import RunContext
from autoswift.run.places import train_python
from autoswift.serve.client import curl_example
from autoswift.serve.deploy import deploy, status
from autoswift.serve.loadtest import LoadSettings, load_test
from autoswift.serve.probe import first_token_logprobs, template_ids
from autoswift.tables import text

ROWS = 4
"""Prompts that trainer and server are compared on."""

LOGPROB_GAP = {"f16": 0.25, "q8_0": 1.0}
"""Largest difference of the best token's log-probability between trainer and server. Measured with SmolLM2: 0.01
in f16 and about 0.1 in q8_0; five to ten times that tells a broken file from rounding."""

Row = dict[str, Any]


def is_live(context: RunContext) -> bool:
    """Whether the run's deployment answers now."""
    found = status(context.folder)
    return bool(found and found["state"] == "running")


def serving_threads(plan: Plan) -> int:
    """All cores but one: llama.cpp spins at its barriers, and with every core taken a busy neighbour stalls them all
    (measured on two shared cores: 10 tokens a second with two threads, 66 with one).
    """
    return max(1, plan.training.threads - 1)


def deploy_stage(context: RunContext, plan: Plan, worker: ModelWorker) -> StepResult:
    """Serves the exported file on loopback, then checks that trainer and server speak the same tokens."""
    exported = context.record.value("export")
    kind: Kind = "merged" if exported["format"] == "merged" else "gguf"
    artifact = Artifact(path=exported["path"], kind=kind, bytes=exported["bytes"])
    settings = {
        "model_name": f"autoswift-{context.record.id}",
        "context": plan.serving.context,
        "parallel": plan.serving.parallel,
        "threads": serving_threads(plan),
        "language": context.task.language,
        "model_type": plan.model.model_type or None,
        "template": plan.model.template or None,
        "python": str(train_python()),
    }
    made = deploy(context.folder, artifact, plan.serving.engine, settings, context.journal)
    rows = _rows(context, "validation.fit.jsonl")[:ROWS]
    checks = _agree(context, plan, worker, made.address, rows) if plan.serving.engine == "llamacpp" else []
    sentence = _question(rows) if rows else context.task.sentence
    value = {name: getattr(made, name) for name in ("artifact", "engine", "address", "state", "model_name", "pid")}
    return StepResult(value=value | {"curl": curl_example(made, sentence), "checks": checks})


def _rows(context: RunContext, name: str) -> list[Row]:
    lines = (context.folder / "data" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _prompt(row: Row) -> list[Any]:
    """The messages before the last answer."""
    messages = list(row["messages"])
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def _question(rows: list[Row]) -> str:
    return str(next(m["content"] for m in rows[0]["messages"] if m["role"] == "user"))


def _agree(context: RunContext, plan: Plan, worker: ModelWorker, address: str, rows: list[Row]) -> list[Row]:
    """Token ids equal in trainer and server; the first token's log-probabilities close.

    Raises:
        PostCheckFailed: naming the check.
    """
    prompts = [_prompt(row) for row in rows]
    worker.ask(
        "load",
        model=str(context.folder / "model" / "merged"),
        model_type=plan.model.model_type or None,
        template=plan.model.template or None,
        dtype=plan.training.precision,
        threads=plan.training.threads or None,
    )
    asked = [{"messages": p} for p in prompts]
    trainer = worker.ask("encode", rows=asked)["rows"]
    server = template_ids(address, prompts)
    same = sum(a == b for a, b in zip(trainer, server, strict=True))
    ours = worker.ask("next_token", rows=asked, top=5)["rows"]
    theirs = first_token_logprobs(address, prompts, top=20)
    gap = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        best, value = int(mine["ids"][0]), float(mine["logprobs"][0])
        gap = max(gap, abs(value - other.get(best, float("-inf"))))
    limit = LOGPROB_GAP[plan.serving.format]
    checks = [
        {"name": "same_token_ids", "passed": same == len(rows), "measured": f"{same} of {len(rows)} prompts"},
        {
            "name": "same_first_token",
            "passed": gap <= limit,
            "measured": f"largest log-probability gap {min(gap, 99.0):.3f} ≤ {limit:g}",
        },
    ]
    failed = [c for c in checks if not c["passed"]]
    if failed:
        raise PostCheckFailed(
            f"The served model is not the trained one: {str(failed[0]['name']).replace('_', ' ')} failed.",
            str(failed[0]["measured"]),
            "Try --set export_format=f16 or --set serve_engine=transformers, and report this.",
        )
    return checks


def loadtest_stage(context: RunContext, plan: Plan) -> StepResult:
    """Throughput and latency on prompts of the training data (never of the test set)."""
    deployed = context.record.value("deploy")
    prompts = [_prompt(row) for row in _rows(context, "train.fit.jsonl")[: sum(plan.serving.load_requests)]]
    settings = LoadSettings(
        parallel=plan.serving.load_parallel,
        requests=plan.serving.load_requests,
        max_tokens=plan.evaluation.max_new_tokens,
        python=str(train_python()),
        deadline=context.clock.deadline,
    )
    # No tokenizer: both servers report how many tokens they made, and loading one takes seconds.
    found = load_test(context.folder, deployed["address"], deployed["model_name"], None, prompts, settings)
    value: dict[str, Any] = dict(found)
    if not found["complete"]:
        why = text("short.loadtest", context.task.language, done=len(found["levels"]), asked=len(settings.parallel))
        context.fall_short(why)
        value["why_skipped"] = why
    return StepResult(value=value)

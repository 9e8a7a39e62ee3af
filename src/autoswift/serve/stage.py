"""The stages `deploy` and `loadtest`."""

from __future__ import annotations

import json
from typing import Any

from autoswift.domain.artifact import Artifact, Kind, StepResult
from autoswift.domain.plan import Plan
from autoswift.engines.stages import last_answer, load_arguments
from autoswift.engines.worker import ModelWorker
from autoswift.errors import PostCheckFailed
from autoswift.run.context import RunContext
from autoswift.run.places import train_python
from autoswift.run.process import TERM_SECONDS
from autoswift.serve.client import curl_example
from autoswift.serve.deploy import deploy, status
from autoswift.serve.loadtest import LoadSettings, load_test
from autoswift.serve.probe import next_logprobs, template_ids, token_ids
from autoswift.tables import explain, named, text

ROWS = 4
"""Prompts that trainer and server are compared on."""

PLACES = 4
"""Places in each answer whose next-token probabilities are compared: the prompt's end and three tokens on, since the
server gives none where its best token is only a part of a character."""

LOGPROB_GAP = {"f16": 0.25, "q8_0": 1.0}
"""Largest difference of the best token's log-probability between trainer and server. Measured with SmolLM2: 0.01
in f16 and about 0.1 in q8_0; five to ten times that tells a broken file from rounding."""

AFTER_LOAD_TEST_SECONDS = TERM_SECONDS + 4.0
"""What must be left of the wall-clock when the load test is cut off: ending its process (which may ignore SIGTERM),
then the record and the report, 2 s planned and under 1 s measured, and leaving."""

Row = dict[str, Any]


def is_live(context: RunContext) -> bool:
    """Whether the run's deployment answers now."""
    found = status(context.folder)
    return bool(found and found["state"] == "running")


def serving_threads(plan: Plan) -> int:
    """All cores but one.

    llama.cpp spins at its barriers, and with every core taken a busy neighbour stalls them all (measured on two
    shared cores: 10 tokens a second with two threads, 66 with one).
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
    worker.ask("load", **load_arguments(context, plan, context.folder / "model" / "merged"))
    asked = [{"messages": p} for p in prompts]
    trainer = worker.ask("encode", rows=asked)["rows"]
    server = template_ids(address, prompts)
    same = sum(a == b for a, b in zip(trainer, server, strict=True))
    gap, compared = _gap(worker, address, [(ids, last_answer(row)) for ids, row in zip(server, rows, strict=True)])
    limit = LOGPROB_GAP[plan.serving.format]
    checks = [
        {"name": "same_token_ids", "passed": same == len(rows), "measured": f"{same} of {len(rows)} prompts"},
        {
            "name": "same_probabilities",
            # Fewer places than prompts would mean that hardly anything was compared.
            "passed": gap <= limit and compared >= len(rows),
            "measured": f"largest log-probability gap {min(gap, 99.0):.3f} (limit {limit:g}) at {compared} places",
        },
    ]
    failed = [c for c in checks if not c["passed"]]
    if failed:
        raise PostCheckFailed(
            *explain("serve.check", check=named("report.check", str(failed[0]["name"])), measured=failed[0]["measured"])
        )
    return checks


def _gap(worker: ModelWorker, address: str, pairs: list[tuple[list[int], str]]) -> tuple[float, int]:
    """Largest difference of the trainer's best token's log-probability, and at how many places it was compared.

    Places: after the prompt, and after each of the reference answer's first tokens (the same ids for both sides). The
    trainer's side reads each prompt once, the server's keeps what two places have in common.
    """
    gap, compared = 0.0, 0
    for ids, reference in pairs:
        answer = token_ids(address, reference)[: PLACES - 1]
        theirs = [next_logprobs(address, ids + answer[:n], top=20) for n in range(len(answer) + 1)]
        ours = worker.ask("next_token", ids=[ids + answer], places=len(answer) + 1, top=1)["rows"]
        for found, mine in zip(theirs, ours, strict=True):
            if found is not None:
                compared += 1
                gap = max(gap, abs(float(mine["logprobs"][0]) - found.get(int(mine["ids"][0]), float("-inf"))))
    return gap, compared


def loadtest_stage(context: RunContext, plan: Plan) -> StepResult:
    """Throughput and latency on prompts of the training data (never of the test set)."""
    deployed = context.record.value("deploy")
    prompts = [_prompt(row) for row in _rows(context, "train.fit.jsonl")[: sum(plan.serving.load_requests)]]
    settings = LoadSettings(
        parallel=plan.serving.load_parallel,
        requests=plan.serving.load_requests,
        max_tokens=plan.evaluation.max_new_tokens,
        python=str(train_python()),
        deadline=context.clock.deadline - AFTER_LOAD_TEST_SECONDS,
    )
    # No tokenizer: both servers report how many tokens they made, and loading one takes seconds.
    found = load_test(context.folder, deployed["address"], deployed["model_name"], None, prompts, settings)
    value: dict[str, Any] = dict(found)
    if not found["complete"]:
        why = text("short.loadtest", context.task.language, done=len(found["levels"]), asked=len(settings.parallel))
        context.fall_short(why)
        value["why_skipped"] = why
    return StepResult(value=value)

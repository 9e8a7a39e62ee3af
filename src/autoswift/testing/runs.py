"""A run folder as a finished, partial or failed run leaves it, made without training: for tests of what reads runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from autoswift.domain.artifact import Deployment, Score
from autoswift.domain.budget import Budget
from autoswift.domain.decision import Decision, Evidence
from autoswift.domain.profile import GIB
from autoswift.domain.task import Language, Task
from autoswift.domain.trial import FINAL_TRAINING, Outcome
from autoswift.run import record as records
from autoswift.run.files import dumps, plain, write_atomic
from autoswift.run.record import RunRecord
from autoswift.testing.example_plan import HOSTILE, LIMIT, data_profile, machine, plan, task_profile

__all__ = ["HOSTILE", "synthetic_run"]

End = Literal["done", "partial", "failed"]
START = 1_760_000_000.0


class _Writer:
    """Writes journal rows with a clock of its own, so that durations look like those of a real run."""

    def __init__(self, record: RunRecord) -> None:
        self.record, self.now = record, START
        self.rows: dict[str, list[str]] = {"events.jsonl": [], "trials.jsonl": [], "training.jsonl": []}

    def event(self, kind: str, **fields: Any) -> None:
        self.rows["events.jsonl"].append(dumps({"time": self.now, "kind": kind} | plain(fields)))

    def trial(self, event: str, number: int, **fields: Any) -> None:
        row = {"time": self.now, "event": event, "trial": number} | plain(fields)
        self.rows["training.jsonl" if number == FINAL_TRAINING else "trials.jsonl"].append(dumps(row))

    def save(self) -> None:
        """Writes both journals at once: a sync for each of some hundred lines would make tests slow."""
        for name, lines in self.rows.items():
            write_atomic(self.record.folder / name, "".join(f"{line}\n" for line in lines))

    def stage(self, name: str, seconds: float, value: Any, artifacts: tuple[Any, ...] = ()) -> None:
        self.record.update(stage=name)
        self.event("stage", stage=name, state="started")
        self.finish(name, seconds, value, artifacts)

    def finish(self, name: str, seconds: float, value: Any, artifacts: tuple[Any, ...] = ()) -> None:
        self.now += seconds
        result = {"value": value, "artifacts": artifacts, "metrics": {}, "seconds": seconds}
        text = dumps({"inputs": "0" * 64, "result": result}, indent=1)
        write_atomic(self.record.folder / "steps" / f"{name}.json", text)
        self.event("stage", stage=name, state="finished", seconds=seconds, metrics={})


def synthetic_run(out: Path, *, language: Language = "zh", end: End = "done") -> RunRecord:
    """Makes a run folder at `out` (registered in `$AUTOSWIFT_HOME`).

    Args:
        out: an absent or empty folder.
        language: of the run's texts.
        end: `done`; `partial` ended after the search for lack of time; `failed` failed in the training.
    """
    zh = language == "zh"
    sentence = "给网店做一个中文售后客服机器人，本地部署" if zh else "A support bot for our web shop, served locally"
    task = Task(
        sentence=sentence,
        data=str(out / "chats.jsonl"),
        columns={"user": "问题", "assistant": "回答"} if zh else {},
        budget=Budget(trials=5, hours=1.0, **LIMIT),
        target="local",
        language=language,
        options={"lora_rank": 8},
    )
    record = records.create(task, out)
    w = _Writer(record)
    record.update(state="running")
    w.event("session", pid=4242, version="0.1.0")
    _before_training(w, zh)
    _search(w)
    if end == "done":
        _after_search(w, zh)
        _result(record, w, "done", ())
        return record
    if end == "failed":
        what = (
            "The merged model differs from base + adapter." if not zh else "合并后的模型与“基座 + 适配器”的输出不一致。"
        )
        error = {
            "error": "PostCheckFailed",
            "what": what,
            "why": "0.41 > 0.05",
            "fix": "autoswift resume",
            "exit_code": 4,
        }
        w.event("stage", stage="train", state="failed", error="PostCheckFailed", what=what)
        w.event("done", state="failed", error=error)
        w.save()
        record.update(state="failed", error=error)
        return record
    reasons = ("时间用完，没有做负载测试",) if zh else ("time was up: no load test",)
    _result(record, w, "partial", reasons)
    return record


def _before_training(w: _Writer, zh: bool) -> None:
    w.stage("understand", 1.8, {"task_profile": task_profile(zh), "data_profile": data_profile(zh), "files": {}})
    where = {"huggingface": False, "modelscope": False, "packaged": True}
    w.stage("hardware", 2.3, {"hardware": machine(zh), "availability": where})
    w.record.save_plan(plan(zh, 1))
    w.event("plan", revision=1, cause="first plan", changed=[])
    w.stage("plan", 0.2, {"revision": 1})
    fetched = {"path": "cache/smollm2", "hashes": {"model.safetensors": "ab" * 32}, "parameters": 134_515_008}
    w.stage("fetch", 9.1, fetched | {"model_type": "llama", "template": "chatml"})
    tokens = {"mean": 171.0, "p50": 160.0, "p95": 244.0, "max": 310.0, "total": 153_900.0}
    w.stage("recount", 3.0, {"tokens": tokens, "answer_tokens": tokens, "changed": ["max_length"]})
    w.record.save_plan(plan(zh, 2))
    cause = "用模型自己的分词器重新计数" if zh else "recounted with the model's own tokenizer"
    w.event("plan", revision=2, cause=cause, changed=["max_length"])


TRIALS: tuple[tuple[str, float, int, str, float], ...] = (
    ("prior", 2.0e-4, 8, "finished", 23.1),
    ("random", 8.1e-4, 4, "finished", 26.8),
    ("tpe", 9.6e-4, 4, "failed", 0.0),
    ("tpe", 5.2e-4, 16, "finished", 25.4),
    ("tpe", 1.3e-5, 8, "pruned", 14.8),
)
"""Origin, learning rate, batch, how it ended, the metric."""


def _search(w: _Writer) -> None:
    w.record.update(stage="search")
    w.event("stage", stage="search", state="started")
    begin, spent = w.now, 0.0
    for number, (origin, rate, batch, status, metric) in enumerate(TRIALS, 1):
        parameters = {"learning_rate": rate, "effective_batch_size": batch, "lora_rank": 8}
        w.trial("proposed", number, parameters=parameters, origin=origin)
        if number == 4:
            spent += _out_of_memory(w, number)
        spent += _one_trial(w, number, 2 if number == 4 else 1, rate, status, metric)
        w.event(
            "budget",
            seconds_spent=w.now - START,
            seconds_left=3600 - (w.now - START),
            device_seconds=spent,
            trials_started=number,
        )
    value = {"best": 2, "reason": "trials", "device_seconds": spent, "trials": 5}
    took, w.now = w.now - begin, begin  # `finish` goes on by it
    w.finish("search", took, value)


def _out_of_memory(w: _Writer, number: int) -> float:
    w.trial("started", number, attempt=1, tokens=20_000, overrides={}, total_steps=20)
    w.now += 21.0
    evidence = "DefaultCPUAllocator: can't allocate memory"
    w.event("symptom", trial=number, attempt=1, symptom="host_out_of_memory", evidence=evidence)
    w.trial(
        "ended", number, attempt=1, outcome=Outcome(status="failed", symptom="host_out_of_memory", device_seconds=21.0)
    )
    changes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}
    because = "Half the micro-batch, twice the accumulation: the effective batch stays 16."
    decision = Decision(
        name="per_device_train_batch_size", value=2, because=because, evidence=(Evidence(text=evidence),)
    )
    w.event("remedy", trial=number, attempt=1, decision=decision, changes=changes)
    w.event("decision", decision=decision)
    return 21.0


def _one_trial(w: _Writer, number: int, attempt: int, rate: float, status: str, metric: float) -> float:
    begin, steps = w.now, 20 if number else 120
    w.trial("started", number, attempt=attempt, tokens=steps * 1000, overrides={}, total_steps=steps)
    for step in range(2, steps + 1, 2):
        if status == "pruned" and step > steps // 2:
            break
        w.now += 6.4
        loss: float | None = (
            1.6 + 2.2 * math.exp(-step * (rate * 1200) ** 0.5 / 9) + 0.05 * math.sin(step * 1.7 + number)
        )
        if status == "failed" and step > steps // 2:
            loss = None
        metrics = {"loss": loss, "learning_rate": rate, "grad_norm": 1.1, "tokens": step * 1000.0}
        more = {"tokens_per_second": 152.0, "memory_bytes": 1.7 * GIB}
        w.trial("progress", number, attempt=attempt, step=step, total_steps=steps, metrics=metrics | more)
    seconds = w.now - begin
    if status == "failed":
        w.event("symptom", trial=number, attempt=attempt, symptom="nan", evidence="loss is NaN at step 12")
        outcome = Outcome(status="failed", symptom="nan", device_seconds=seconds, steps=12)
    else:
        metrics = {"chrf": metric, "nll": 2.9 - metric / 50, "latency_seconds": 0.82}
        w.trial("evaluated", number, attempt=attempt, step=step, metrics=metrics)
        kind: Any = status
        outcome = Outcome(status=kind, metrics=metrics, device_seconds=seconds, steps=step, tokens=step * 1000)
    w.trial("ended", number, attempt=attempt, outcome=outcome)
    return seconds


def _after_search(w: _Writer, zh: bool) -> None:
    w.event("stage", stage="train", state="started")
    spent = _one_trial(w, 0, 1, 8.1e-4, "finished", 31.2)
    argv = ["swift", "sft", "--model", "cache/smollm2", "--learning_rate", "0.00081", "--system", "it's ok"]
    validation = {"base": {"chrf": 11.9, "nll": 3.4}, "tuned": {"chrf": 31.2, "nll": 2.2}}
    train = {"trial": 0, "promoted": False, "checkpoint": "trials/0/checkpoint-120", "validation": validation}
    train |= {"metrics": {"loss": 1.62, "tokens_per_second": 152.0, "peak_memory_bytes": 1.8 * GIB}}
    train |= {"parameters": {"learning_rate": 8.1e-4, "effective_batch_size": 4, "lora_rank": 8}, "commands": [argv]}
    w.now -= spent
    w.finish("train", spent, train)
    checks = [
        {"name": "adapter_not_zero", "passed": True, "measured": 0.031},
        {"name": "merged_equals_base_plus_adapter", "passed": True, "measured": "max 0.0004 <= 0.05"},
    ]
    merge = ["swift", "export", "--adapters", "trials/0/checkpoint-120", "--merge_lora", "true"]
    w.stage("merge", 14.2, {"path": "model", "checks": checks, "commands": [merge]})
    w.stage("evaluate", 96.0, _evaluation(zh, w.now))
    convert = ["convert-hf-to-gguf", "model", "--outfile", "export/model-q8_0.gguf", "--outtype", "q8_0"]
    small = [{"name": "smaller", "passed": True, "measured": 0.53}]
    export = {"path": "export/model-q8_0.gguf", "format": "q8_0", "bytes": 144_811_648, "merged_bytes": 538_090_408}
    w.stage("export", 11.0, export | {"checks": small, "commands": [convert]})
    deployment = Deployment(
        artifact="export/model-q8_0.gguf",
        engine="llamacpp",
        address="http://127.0.0.1:8080/v1",
        state="running",
        model_name="autoswift",
        pid=4343,
    )
    body = '{"model":"autoswift","messages":[{"role":"user","content":"你好"}]}'
    curl = f"curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    w.event("note", text="8000 被占用，改用 8080" if zh else "port 8000 is taken: 8080", level="warn")
    w.stage("deploy", 4.4, plain(deployment) | {"curl": curl, "checks": small})
    w.stage("loadtest", 38.5, {"complete": True, "levels": [_level(p) for p in (1, 2, 4)]})
    w.stage("report", 0.4, {"path": "report.html"})
    w.stage("learn", 0.1, {"entry": {}})


def _evaluation(zh: bool, now: float) -> dict[str, Any]:
    base = {"chrf": Score(value=12.1, low=10.3, high=14.0), "rouge_l": Score(value=9.2, low=7.4, high=11.1)}
    tuned = {"chrf": Score(value=30.5, low=27.6, high=33.5), "rouge_l": Score(value=33.1, low=29.2, high=37.0)}
    nll = {"nll": Score(value=3.41)}, {"nll": Score(value=2.19)}
    difference = {"chrf": Score(value=18.4, low=15.5, high=21.4), "rouge_l": Score(value=23.9, low=20.1, high=27.8)}
    ask = "快递三天没动了，怎么办？" if zh else "My parcel has not moved for three days."
    good = (
        "您好，很抱歉给您带来不便，我马上为您联系快递核实。" if zh else "Sorry about that, I will ask the carrier now."
    )
    before = {"role": "assistant", "content": "您好" if zh else "Hello"}
    rows = []
    for n in range(8):
        asked = [{"role": "user", "content": f"{ask} ({n})"}]
        prompt = [{"role": "user", "content": "在吗"}, before, *asked] if n == 7 else asked
        rows.append({"prompt": prompt, "reference": good, "base": f"I am not sure. {HOSTILE}", "tuned": good})
    return {
        "metric": "chrf",
        "rows": 60,
        "confidence": 0.95,
        "base": {"scores": base | nll[0], "seconds_per_answer": 0.9, "distinct_answers": 0.4},
        "tuned": {"scores": tuned | nll[1], "seconds_per_answer": 0.7, "distinct_answers": 0.9},
        "difference": difference,
        "wins": {"tuned": 51, "base": 4, "ties": 5},
        "examples": rows,
        "test_opened": now,
    }


def _level(parallel: int) -> dict[str, Any]:
    def spread(middle: float) -> dict[str, float]:
        return {"mean": middle * 1.05, "p50": middle, "p90": middle * 1.4, "p99": middle * 1.9}

    return {
        "parallel": parallel,
        "requests": parallel * 4,
        "succeeded": parallel * 4,
        "failed": 0,
        "seconds": 9.0,
        "requests_per_second": 0.9 * parallel**0.4,
        "output_tokens_per_second": 71.0 * parallel**0.4,
        "ttft_ms": spread(60.0 * parallel),
        "tpot_ms": spread(12.0 * parallel**0.6),
        "latency_ms": spread(900.0 * parallel**0.6),
    }


def _result(record: RunRecord, w: _Writer, state: str, reasons: tuple[str, ...]) -> None:
    served = state == "done"
    result = {
        "metric": "chrf",
        "base": 12.1 if served else None,
        "tuned": 30.5 if served else None,
        "difference": 18.4 if served else None,
        "low": 15.5 if served else None,
        "high": 21.4 if served else None,
        "address": "http://127.0.0.1:8080/v1" if served else None,
        "report": "report.html",
        "partial_reasons": list(reasons),
    }
    record.update(state=state, stage="learn", result=result)
    w.event("done", state=state, address=result["address"], report="report.html")
    w.save()

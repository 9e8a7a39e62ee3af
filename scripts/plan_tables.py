"""The plans for the recorded machines and forty tasks, as tables to read: docs/en/plans.md and docs/zh/plans.md.

    .venv/bin/python scripts/plan_tables.py [--check]

A plan is a pure function of what it is given, so the documents come out the same each time; with --check nothing is
written and the exit code says whether they are up to date.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from autoswift.catalog.availability import Availability
from autoswift.catalog.models import catalog
from autoswift.decide.inputs import Inputs
from autoswift.decide.planner import make_plan
from autoswift.domain.budget import Budget
from autoswift.domain.profile import DataProfile, HardwareProfile, LengthStats, TaskProfile
from autoswift.domain.task import Task
from autoswift.errors import AutoSwiftError
from autoswift.hardware.probe import from_json
from autoswift.report.words import duration
from autoswift.tables import use_language

ROOT = Path(__file__).resolve().parents[1]
PROBES = ROOT / "tests" / "probes"
LANGUAGES = ("en", "zh")
ONLINE = Availability(huggingface=True, modelscope=True, packaged=True)
GIB = 2**30
P95, LONGEST = 2.0, 4.0
"""Of the mean length: the rows of real data sets are skewed like this or more."""
LATIN = 2.8
"""Characters of an English text for each of a Chinese one that says the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A task in both languages.

    Attributes:
        name: what a person would ask for. row, answer: mean characters, in Chinese. extra: of the task profile.
    """

    name: dict[str, str]
    domain: str
    goal: str = "chat"
    rows: int
    row: int
    answer: int
    turns: float = 1.0
    extra: dict[str, Any]


def _kind(en: str, zh: str, domain: str, size: tuple[int, int, int], goal: str = "chat", **more: Any) -> Kind:
    rows, row, answer = size
    turns = float(more.pop("turns", 1.0))
    return Kind(
        name={"en": en, "zh": zh}, domain=domain, goal=goal, rows=rows, row=row, answer=answer, turns=turns, extra=more
    )


KINDS = (
    _kind("returns and refunds", "退货退款客服", "customer_service", (500, 120, 45), turns=2.0),
    _kind("60 support dialogues", "60 段客服对话", "customer_service", (60, 120, 45), turns=2.0),
    _kind("support, served on an edge box", "边缘盒子上的客服", "customer_service", (500, 120, 45), deploy="edge"),
    _kind("which of 12 intents", "12 类意图识别", "customer_service", (5_000, 40, 4), "classification"),
    _kind("medical questions", "医疗问答", "medical", (3_000, 320, 220)),
    _kind("diagnoses and doses from records", "从病历抽取诊断和剂量", "medical", (1_500, 400, 120), "extraction"),
    _kind("legal advice with sources", "引用法条的法律咨询", "legal", (2_000, 600, 350)),
    _kind("parties and amounts from contracts", "从合同抽取各方和金额", "legal", (800, 1_600, 100), "extraction"),
    _kind("writing Python", "写 Python 代码", "code", (10_000, 900, 600)),
    _kind("mathematics, step by step", "数学分步解题", "math", (5_000, 350, 250), "reasoning"),
    _kind("questions on annual reports", "年报问答", "finance", (1_000, 900, 150)),
    _kind("mood of reviews", "评论情感分类", "general", (2_000, 60, 2), "classification"),
    _kind("translation, 50,000 pairs", "翻译，5 万对", "translation", (50_000, 90, 45)),
    _kind("minutes of meetings", "会议纪要总结", "summarization", (3_000, 2_400, 250)),
    _kind("poems", "写诗", "creative_writing", (300, 80, 56)),
    _kind("a character in long dialogues", "长对话角色扮演", "roleplay", (2_000, 1_500, 700), turns=8.0),
    _kind("a tutor", "教学辅导", "education", (1_000, 400, 250)),
    _kind("200,000 mixed instructions", "20 万条混合指令", "general", (200_000, 300, 200)),
    _kind("judgements of 12,000 words", "一万二千字的判决书", "legal", (500, 12_000, 400)),
    _kind(
        "commercial use, at most 3B", "商用，不超过 3B", "general", (1_000, 250, 150),
        constraints={"licence": "commercial", "parameters": "3B"},
    ),
)  # fmt: skip
"""Twenty, in two languages."""


@dataclass(frozen=True, slots=True)
class Case:
    """A task: what kind, in which language its data is."""

    kind: Kind
    language: str

    def name(self, language: str) -> str:
        """As a row's head."""
        return f"{self.kind.name[language]} ({self.language})"


CASES = tuple(Case(kind, language) for kind in KINDS for language in ("zh", "en"))


def _lengths(mean: float, rows: int) -> LengthStats:
    return LengthStats(mean=mean, p50=mean * 0.9, p95=mean * P95, max=mean * LONGEST, total=mean * rows)


def inputs_of(case: Case, hardware: HardwareProfile, language: str) -> Inputs:
    """What a plan is made from: five trials, four hours, both hubs at hand."""
    kind, factor = case.kind, LATIN if case.language == "en" else 1.0
    held = max(min(20, kind.rows // 5), kind.rows // 10)
    data = DataProfile(
        path="/data.jsonl", sha256="0", format="jsonl", task="sft", language=case.language, domain=kind.domain,
        modality="text", rows=kind.rows, conversations=kind.rows, turns_mean=kind.turns,
        splits={"train": kind.rows - 2 * held, "validation": held, "test": held},
        characters=_lengths(kind.row * factor, kind.rows),
        answer_characters=_lengths(kind.answer * factor, kind.rows),
        cjk_share=0.85 if case.language == "zh" else 0.0,
    )  # fmt: skip
    profile = TaskProfile(
        text=kind.name[case.language], language=case.language, domain=kind.domain, goal=kind.goal, **kind.extra
    )
    task = Task(
        sentence=profile.text,
        data=data.path,
        budget=Budget(trials=5, hours=4),
        language="zh" if language == "zh" else "en",
    )
    return Inputs(task=task, profile=profile, data=data, hardware=hardware, availability=ONLINE, models=catalog())


@cache
def machines() -> dict[str, HardwareProfile]:
    """The recorded machines by the name of their file."""
    return {path.stem: from_json(path) for path in sorted(PROBES.glob("*.json"))}


WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "head": (
            "task", "model", "method", "precision", "micro-batch × accumulation", "length", "checkpointing",
            "attention", "learning rate", "trials", "predicted peak / memory (GiB)", "time", "why",
        ),
        "on": "on",
        "off": "off",
        "title": "Plans",
        "intro": (
            "[中文](../zh/plans.md) · [README](../../README.md) · [How it decides](how-it-decides.md)",
            "What the planner decides for forty tasks on each of the recorded machines (`tests/probes`), as it would "
            "before anything is downloaded: token counts are estimated from the characters, both hubs can be reached, "
            "the budget is five trials and four hours. `make plan-tables` writes these pages; a test compares rows of "
            "them with what the planner says now.",
            "A task's name is followed by the language of its data. The data are described, not given: so many rows, "
            "the longest {longest:g} times as long as the mean, see `scripts/plan_tables.py`. Micro-batch × "
            "accumulation make the effective batch; a third factor is the number of cards that share a training. The "
            "peak is what `max_memory_allocated` would say; a plan is only made where its upper bound, with what the "
            "allocator keeps and the context, fits too. The time holds everything, from the download to the load "
            "test.",
        ),
        "machine": "{name}: {count} × {device}, {memory:.0f} GiB",
        "of": "{free:.1f} GiB are free.",
    },
    "zh": {
        "head": (
            "任务", "模型", "方法", "精度", "微批次 × 累积", "长度", "激活重算",
            "注意力", "学习率", "试验数", "预计峰值 / 内存（GiB）", "用时", "理由",
        ),
        "on": "开",
        "off": "关",
        "title": "方案一览",
        "intro": (
            "[English](../en/plans.md) · [README](../../README.zh.md) · [决策依据](how-it-decides.md)",
            "四十个任务在每台已记录的机器（`tests/probes`）上得到的方案，都是下载任何东西之前的样子：token 数由"
            "字符数估算，两个模型站都能访问，预算为五次试验、四小时。`make plan-tables` 生成这两页，并有测试把其中若干"
            "行与规划器现在的结果对照。",
            "任务名后括号里是数据的语言。数据只有描述，没有实物：多少行、最长一行是平均长度的 {longest:g} 倍，见 "
            "`scripts/plan_tables.py`。微批次 × 累积即有效批大小，第三个因子是分担一次训练的卡数。峰值对应 "
            "`max_memory_allocated`；只有连同分配器预留和上下文在内的上限也放得下，"
            "才会给出方案。用时包括从下载到压测的全部环节。",
        ),
        "machine": "{name}：{count} × {device}，{memory:.0f} GiB",
        "of": "可用 {free:.1f} GiB。",
    },
}  # fmt: skip


def cells(case: Case, machine: str, language: str) -> list[str]:
    """A row of a machine's table."""
    use_language(language)
    hardware, words = machines()[machine], WORDS[language]
    try:
        plan = make_plan(inputs_of(case, hardware, language))
    except AutoSwiftError as exc:
        return [case.name(language), *["–"] * (len(words["head"]) - 2), exc.what]
    one = plan.training
    shared = f" × {one.devices}" if one.devices > 1 else ""
    return [
        case.name(language),
        plan.model.id,
        one.method,
        one.precision,
        f"{one.per_device_train_batch_size} × {one.gradient_accumulation_steps}{shared}",
        str(one.max_length),
        words["on" if one.gradient_checkpointing else "off"],
        one.attention,
        f"{one.learning_rate:.1e}".replace("e-0", "e-"),
        str(plan.search.trials),
        f"{plan.estimate.peak_memory_bytes / GIB:.1f} / {hardware.device.memory_bytes / GIB:.0f}",
        duration(sum(plan.estimate.stage_seconds.values()), language),
        plan.decision("method").because.rstrip(".。"),
    ]


def row(some: list[str] | tuple[str, ...]) -> str:
    """A line of a table."""
    return "| " + " | ".join(one.replace("|", "/").replace("\n", " ") for one in some) + " |"


def section(machine: str, language: str) -> list[str]:
    """A machine's heading, what holds for all its plans, and its table."""
    hardware, words = machines()[machine], WORDS[language]
    device = hardware.device
    count = sum((one.kind, one.name) == (device.kind, device.name) for one in hardware.devices)
    memory = device.memory_bytes / GIB
    lines = ["", "## " + words["machine"].format(name=machine, count=count, device=device.name, memory=memory), ""]
    first = make_plan(inputs_of(CASES[0], hardware, language))
    said = [d.because for d in first.decisions if d.name in ("precision", "attention")]
    lines += [" ".join([words["of"].format(free=device.free_bytes / GIB), *said]).replace("。 ", "。"), ""]
    lines += [row(words["head"]), "|" + " --- |" * len(words["head"])]
    return lines + [row(cells(case, machine, language)) for case in CASES]


def document(language: str) -> str:
    """A whole page."""
    words = WORDS[language]
    lines = [f"# {words['title']}"]
    for paragraph in words["intro"]:
        lines += ["", paragraph.format(longest=LONGEST)]
    for machine in machines():
        lines += section(machine, language)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Writes both pages, or compares them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a page is out of date")
    check = parser.parse_args().check
    stale = 0
    for language in LANGUAGES:
        path, made = ROOT / "docs" / language / "plans.md", document(language)
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if old != made:
            stale += 1
            if not check:
                path.write_text(made, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'as it was' if old == made else 'out of date' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

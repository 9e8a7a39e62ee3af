"""Sets the sentence against the data: what the data shows completes the task, and a contradiction is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autoswift.domain.profile import DataProfile, Problem, TaskProfile
from autoswift.tables import text as say
from autoswift.understand.language import detect, reading_language
from autoswift.understand.problems import Findings

GOALS = {
    "dpo": "preference",
    "kto": "preference",
    "pretrain": "continued_pretraining",
    "classification": "classification",
    "embedding": "embedding",
    "reranking": "reranking",
}
"""The goal that data of a task can be used for; `sft` serves every goal that is an answer to a question."""
ANSWERS = {"chat", "classification", "extraction", "reasoning"}
"""Goals that question-and-answer rows can train."""
CERTAIN = 0.9
"""The shape of the data is a fact, not a reading."""


def weigh(task: TaskProfile, data: DataProfile) -> tuple[TaskProfile, tuple[Problem, ...]]:
    """The task as the data completes it, and what contradicts it.

    The data decides what can be trained (goal), what must be read (modality) and the language of the answers, whatever
    the sentence or an option says; the sentence decides the domain, unless it names none. A domain or a language that
    the user fixed stays. Where a fact that was said has to give way, that is reported.
    """
    reader = reading_language(detect(task.text) if task.text.strip() else task.language)
    findings = Findings(data.path, reader)
    profile = _goal(task, data, findings)
    profile = _domain(profile, data, findings)
    profile = _modality(profile, data, findings)
    profile = _language(profile, data, findings)
    settled = ("domain", "goal", "modality")
    dropped = {say(f"understand.assumed_{fact}", reader) for fact in settled if fact in profile.evidence}
    # What the sentence left unsure is sure once the data says it.
    dropped |= {
        say(f"understand.unsure_{fact}", reader, value=getattr(task, fact), words=task.evidence[fact])
        for fact in settled
        if fact in task.evidence and profile.confidence.get(fact, 0.0) >= CERTAIN
    }
    kept = tuple(a for a in profile.assumptions if a not in dropped)
    return replace(profile, assumptions=kept), tuple(findings.problems)


def _set(profile: TaskProfile, fact: str, value: str, because: str) -> TaskProfile:
    changes: dict[str, Any] = {
        fact: value,
        "evidence": profile.evidence | {fact: because},
        "confidence": profile.confidence | {fact: CERTAIN},
        "methods": profile.methods | {fact: "data"},
    }
    return replace(profile, **changes)


def _fixed(task: TaskProfile, fact: str) -> bool:
    return task.methods.get(fact) == "option"


def _goal(task: TaskProfile, data: DataProfile, findings: Findings) -> TaskProfile:
    said = "goal" in task.evidence
    possible = {GOALS[data.task]} if data.task in GOALS else ANSWERS
    if data.task == "embedding":  # queries with good and bad passages train either
        possible = possible | {"reranking"}
    if task.goal in possible:
        return task
    goal = GOALS.get(data.task, "chat")
    usual = task.goal == "chat" and data.task in ("dpo", "kto", "classification") and not _fixed(task, "goal")
    if said and not usual:
        # A chatbot tuned with preferences, or one that answers with labels, is still what was asked for.
        findings.add(
            "goal_contradiction", "warn", said=task.goal, task=data.task, goal=goal, words=task.evidence["goal"]
        )
    return _set(task, "goal", goal, f"data: {data.task}")


def _domain(task: TaskProfile, data: DataProfile, findings: Findings) -> TaskProfile:
    if data.domain in ("general", "classification", task.domain):
        return task
    if "domain" not in task.evidence:
        return _set(task, "domain", data.domain, f"data: {data.domain}")
    findings.add("domain_contradiction", "warn", said=task.domain, found=data.domain)
    return task


def _modality(task: TaskProfile, data: DataProfile, findings: Findings) -> TaskProfile:
    if data.modality == task.modality:
        return task
    if data.modality == "text":
        findings.add("modality_contradiction", "warn", said=task.modality)
        return task
    if "modality" in task.evidence:
        words = task.evidence["modality"]
        findings.add("modality_by_data", "warn", said=task.modality, words=words, found=data.modality)
    return _set(task, "modality", data.modality, f"data: {data.modality} column")


def _language(task: TaskProfile, data: DataProfile, findings: Findings) -> TaskProfile:
    wanted = task.constraints.get("answer_language")
    if wanted and data.language not in (wanted, "mixed"):
        findings.add("language_contradiction", "warn", said=wanted, found=data.language)
    if data.language == task.language:
        return task
    if _fixed(task, "language"):
        findings.add("language_contradiction", "warn", said=task.language, found=data.language)
        return task
    return _set(task, "language", data.language, f"data: {data.language}")

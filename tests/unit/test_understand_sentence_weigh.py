"""The sentence set against the data: what the data shows wins where it must, and a contradiction is said."""

from __future__ import annotations

from typing import Any

import pytest

from autoswift.domain.profile import DataProfile, LengthStats
from autoswift.understand.sentence import Tools, understand
from autoswift.understand.weigh import weigh

RULES = Tools()


def data(**changes: Any) -> DataProfile:
    """A file of 100 Chinese conversations, changed."""
    length = LengthStats(mean=10, p50=10, p95=20, max=30, total=1000)
    values: dict[str, Any] = {
        "path": "f.jsonl", "sha256": "", "format": "messages", "task": "sft", "language": "zh", "domain": "general",
        "modality": "text", "rows": 100, "conversations": 100, "turns_mean": 1.0, "splits": {},
        "characters": length, "answer_characters": length,
    }  # fmt: skip
    return DataProfile(**values | changes)


@pytest.mark.parametrize("sentence", ["客服机器人", "只有文字的客服", "语音客服"])
def test_an_image_column_makes_the_task_multimodal_whatever_the_sentence_says(sentence: str) -> None:
    task, _ = weigh(understand(sentence, using=RULES), data(modality="image"))
    assert (task.modality, task.methods["modality"]) == ("image", "data")


def test_a_modality_that_was_said_and_gives_way_is_reported() -> None:
    said = understand("语音客服", using=RULES)
    _, problems = weigh(said, data(modality="image"))
    (problem,) = [p for p in problems if p.kind == "modality_by_data"]
    assert problem.severity == "warn"
    assert "语音" in problem.message
    assert problem.fix
    assert not weigh(understand("客服", using=RULES), data(modality="image"))[1]


def test_pictures_that_the_data_lacks_are_reported() -> None:
    task, problems = weigh(understand("看图问答", using=RULES), data())
    assert task.modality == "image"
    assert [p.kind for p in problems] == ["modality_contradiction"]


def test_what_the_user_fixed_stays_unless_the_data_cannot_train_it() -> None:
    fixed = understand("客服", using=RULES, options={"domain": "legal", "language": "en", "goal": "chat"})
    task, problems = weigh(fixed, data(domain="medical", task="dpo"))
    assert (task.domain, task.language, task.goal) == ("legal", "en", "preference")
    assert {p.kind for p in problems} == {"domain_contradiction", "language_contradiction", "goal_contradiction"}


def test_the_data_settles_what_the_sentence_left_open() -> None:
    vague = understand("帮我训个AI", using=RULES)
    task, problems = weigh(vague, data(domain="medical", task="classification"))
    assert (task.domain, task.goal) == ("medical", "classification")
    assert problems == ()
    assert len(task.assumptions) < len(vague.assumptions)

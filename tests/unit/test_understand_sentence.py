"""One sentence becomes a profile: values, negation, context, hardware, constraints, assumptions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.errors import InputError
from autoswift.understand.language import cjk_share, detect
from autoswift.understand.sentence import Tools, sentence_report, understand, understand_batch

FACTS = ("domain", "modality", "goal", "deploy")


@pytest.mark.parametrize(
    ("sentence", "domain", "modality", "goal", "deploy"),
    [
        ("帮我训练一个医疗问答机器人", "medical", "text", "chat", "none"),
        ("医疗器械公司的客服退货", "customer_service", "text", "chat", "none"),
        ("write a poem about a lawyer", "creative_writing", "text", "chat", "none"),
        ("用单卡3090微调一个法律咨询模型", "legal", "text", "chat", "none"),
        ("做一个能部署到树莓派的语音助手", "general", "audio", "chat", "edge"),
        ("A support chatbot for my shop, deployed on a Raspberry Pi", "customer_service", "text", "chat", "edge"),
        ("不要做医疗的，做一个写诗的AI", "creative_writing", "text", "chat", "none"),
        ("not for doctors, but for lawyers: a contract question bot", "legal", "text", "chat", "none"),
        ("don't build a translator, build a bot that solves math problems", "math", "text", "reasoning", "none"),
        ("translate medical papers from English to Chinese", "translation", "text", "chat", "none"),
        ("train on 8x A100 80GB, deploy to Kubernetes", "general", "text", "chat", "k8s"),
        ("在阿里云上训练，给客服用的意图分类模型", "customer_service", "text", "classification", "none"),
        ("把客服机器人部署到阿里云", "customer_service", "text", "chat", "cloud"),
        ("看X光片写诊断报告", "medical", "image", "chat", "none"),
        ("小红书短视频文案生成", "creative_writing", "text", "chat", "none"),
        ("summarize transcripts of phone calls", "summarization", "text", "chat", "none"),
        ("从合同里抽取甲方乙方和金额，输出JSON", "legal", "text", "extraction", "none"),
        ("用DPO让我的客服模型更符合人类偏好", "customer_service", "text", "preference", "none"),
        ("在金融研报语料上继续预训练", "finance", "text", "continued_pretraining", "none"),
        ("train an embedding model for legal document search", "legal", "text", "embedding", "none"),
        ("rerank search results for an e-commerce site", "customer_service", "text", "reranking", "none"),
        ("手机店的客服机器人", "customer_service", "text", "chat", "none"),
        ("云南旅游问答", "general", "text", "chat", "none"),
        ("I'm a lawyer and want a model that writes bedtime stories", "creative_writing", "text", "chat", "none"),
        ("custmer suport chatbot for refunds", "customer_service", "text", "chat", "none"),
        ("代码补全助手，推理速度要快", "code", "text", "chat", "none"),
    ],
)
def test_sentences(sentence: str, domain: str, modality: str, goal: str, deploy: str) -> None:
    profile = understand(sentence)
    assert {f: getattr(profile, f) for f in FACTS} == dict(zip(FACTS, (domain, modality, goal, deploy), strict=True))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("做一个kubernetes问答机器人", "zh"),
        ("a customer service bot", "en"),
        ("帮我 fine-tune 一个 customer service chatbot for beginners", "mixed"),
        ("Build a bot for 淘宝 sellers who answer questions", "en"),
        ("Ein Chatbot für den Kundendienst meiner Firma, der auf Fragen der Kunden antwortet", "de"),
        ("日本語のカスタマーサポートボットを作りたい", "ja"),
        ("한국어 고객 서비스 챗봇", "ko"),
        ("Чат-бот для службы поддержки клиентов", "ru"),
        ("12345 !!!", "en"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert detect(text) == language


def test_cjk_share_counts_characters_without_spaces() -> None:
    assert cjk_share("你好 ab") == 0.5
    assert cjk_share(" \n") == 0.0


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("用单卡3090训练", ("单卡3090",)),
        ("I have one RTX 4090 with 24GB", ("RTX 4090", "24GB")),
        ("部署到树莓派", ("树莓派",)),
        ("在昇腾910B上训练", ("昇腾910B",)),
        ("on my Apple M2", ("Apple M2",)),
        ("没有显卡的电脑", ("没有显卡",)),
        ("我有 24GB 的数据", ()),
        ("model released in 2024, for route 4 buses", ()),
    ],
)
def test_hardware_words(sentence: str, words: tuple[str, ...]) -> None:
    found = understand(sentence).hardware
    assert len(found) == len(words)
    assert all(w in f for w, f in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("sentence", "name", "value"),
    [
        ("must run offline", "privacy", "offline"),
        ("数据不能出公司，私有化部署", "privacy", "on_premises"),
        ("要求可商用", "licence", "commercial"),
        ("Apache 2.0 licence only", "licence", "apache-2.0"),
        ("latency under 500ms", "latency", "500ms"),
        ("2秒内回复", "latency", "2秒内"),
        ("7B以下的模型", "parameters", "<=7B"),
        ("双卡3090", "devices", "2"),
        ("8x A100 80GB", "devices", "8"),
        ("24GB显存", "memory_gb", "24"),
        ("build a Chinese chatbot", "answer_language", "zh"),
    ],
)
def test_constraints(sentence: str, name: str, value: str) -> None:
    profile = understand(sentence)
    assert profile.constraints[name] == value
    assert profile.evidence[name]


def test_every_fact_has_confidence_and_what_was_said_has_its_words() -> None:
    profile = understand("医疗问答，部署到k8s")
    assert profile.evidence["domain"] == "医疗"
    assert profile.evidence["deploy"] == "k8s"
    assert "modality" not in profile.evidence
    assert all(0 <= profile.confidence[f] <= 1 for f in (*FACTS, "language"))
    assert profile.confidence["domain"] > understand("搞个AI").confidence["domain"]


def test_a_vague_sentence_lists_its_assumptions_in_its_language() -> None:
    zh, en = understand("搞个AI").assumptions, understand("make it better").assumptions
    assert len(zh) == len(en) == 4
    assert all(any("\u4e00" <= c <= "\u9fff" for c in a) for a in zh)
    assert all(a.isascii() for a in en)
    assert understand("a medical question answering chatbot").assumptions == ()


def test_a_typo_is_corrected_and_said_but_a_right_word_never() -> None:
    assert "custmer → customer" in understand("custmer support").evidence["typos"]
    for right in ("contact me about personal things", "stores and parents", "a baking recipe bot"):
        assert "typos" not in understand(right).evidence


@pytest.mark.parametrize("sentence", ["", "   \n\t", "\u3000"])
def test_an_empty_sentence_is_refused(sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        understand(sentence)
    assert caught.value.fix


def test_batch_answers_in_order_and_goes_on_after_a_bad_line() -> None:
    lines: list[str | bytes | Mapping[str, Any]] = [
        '{"text": "写诗"}',
        "",
        "not json",
        '{"text": ""}',
        {"text": "a legal bot"},
    ]
    answers = list(understand_batch(lines))
    assert [a.get("domain", a.get("error")) for a in answers] == [
        "creative_writing",
        "InputError",
        "InputError",
        "legal",
    ]
    assert set(answers[0]) == {
        "text", "language", "domain", "modality", "goal", "deploy",
        "hardware", "constraints", "assumptions", "evidence", "confidence", "methods",
    }  # fmt: skip


@given(st.text(max_size=200))
def test_any_text_is_answered_or_refused(text: str) -> None:
    rules_only = Tools()
    try:
        profile = understand(text, using=rules_only)
    except InputError:
        assert not text.strip()
        return
    json.dumps(sentence_report(profile), allow_nan=False)
    assert understand(text, using=rules_only) == profile


@pytest.mark.parametrize("text", ["\ud800 poem", "\x00", "🙂", "a" * 50_000, "，。！", "写诗" * 9_000])
def test_odd_text_is_answered_by_all_methods(text: str) -> None:
    json.dumps(sentence_report(understand(text)), allow_nan=False)

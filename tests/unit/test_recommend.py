"""What is recommended for 40 tasks on real machines, that an expert would sign; and why the others are not."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoswift.catalog.models import all_models, catalog, find
from autoswift.decide.need import Constraints, edge_box
from autoswift.decide.recommend import Candidate, edge_format, recommend
from autoswift.domain.profile import GIB, TaskProfile
from autoswift.tables import table
from unit.recommend_cases import OFFLINE, ONLINE, asked, device, machine

LICENCE = {"licence": "commercial"}
QUICK = {"domain": "customer_service", "constraints": {"latency": "low"}}
CASES: list[tuple[str, str, str, dict[str, Any], str]] = [
    # what, card, language, task, what the first may be
    ("zh customer service, 24 GB", "rtx-4090", "zh", {"domain": "customer_service"}, r"qwen3-(4b|8b)"),
    ("zh customer service, 24 GB server", "a10", "zh", {"domain": "customer_service"}, r"qwen3-(4b|8b)"),
    ("zh customer service, 12 GB", "rtx-3060", "zh", {"domain": "customer_service"}, r"qwen3-4b"),
    ("zh customer service, T4", "t4", "zh", {"domain": "customer_service"}, r"qwen3-4b"),
    ("zh customer service, 8 GB", "rtx-4060", "zh", {"domain": "customer_service"}, r"qwen3-(1\.7b|4b)"),
    ("zh customer service, 40 GB", "a100-40g", "zh", {"domain": "customer_service"}, r"qwen3-(8b|14b)"),
    ("zh customer service, 80 GB", "a100-80g", "zh", {"domain": "customer_service"}, r"qwen3-(8b|14b|32b)"),
    ("zh dialogue, H100", "h100", "zh", {}, r"qwen3-(14b|32b)"),
    ("en dialogue, 24 GB", "rtx-4090", "en", {}, r"qwen3-(4b|8b)|llama-3\.1-8b"),
    ("ja dialogue, 24 GB", "rtx-4090", "ja", {}, r"qwen3-(4b|8b)"),
    ("mixed dialogue, V100", "v100-32g", "mixed", {}, r"qwen3-(4b|8b)"),
    ("zh dialogue, Apple", "apple-m2-max", "zh", {}, r"qwen3-(4b|8b)"),
    ("zh dialogue, Ascend", "ascend-910b", "zh", {}, r"qwen3-(8b|14b)"),
    ("zh medical, 24 GB", "rtx-4090", "zh", {"domain": "medical"}, r"huatuogpt-o1-7b"),
    ("en medical, 24 GB", "rtx-4090", "en", {"domain": "medical"}, r"huatuogpt-o1-[78]b"),
    ("zh medical, 12 GB", "rtx-3060", "zh", {"domain": "medical"}, r"huatuogpt-o1-7b"),
    ("zh medical, 80 GB", "a100-80g", "zh", {"domain": "medical"}, r"huatuogpt-o1|baichuan-m2"),
    ("zh medical to be sold", "rtx-4090", "zh", {"domain": "medical", "constraints": LICENCE}, r"huatuogpt-o1-7b"),
    ("zh legal, 24 GB", "rtx-4090", "zh", {"domain": "legal"}, r"qwen3-8b"),
    ("en legal, 24 GB: a 2024 specialist is behind", "rtx-4090", "en", {"domain": "legal"}, r"qwen3-8b"),
    ("zh finance, 24 GB", "rtx-4090", "zh", {"domain": "finance"}, r"qwen3-8b|fin-r1"),
    ("zh code, 24 GB", "rtx-4090", "zh", {"domain": "code"}, r"qwen2\.5-coder-7b-instruct|qwen3-coder"),
    ("en code, 80 GB", "h100", "en", {"domain": "code"}, r"qwen2\.5-coder-(14|32)b-instruct|qwen3-coder"),
    ("zh mathematics, 24 GB", "rtx-4090", "zh", {"domain": "math"}, r"deepseek-r1.*qwen3-8b|qwen2\.5-math|qwen3"),
    ("zh reasoning, 24 GB", "rtx-4090", "zh", {"goal": "reasoning"}, r"deepseek-r1|thinking|qwen3"),
    ("zh pictures, 24 GB", "rtx-4090", "zh", {"modality": "image"}, r"qwen(2\.5|3)-vl-(4|7|8)b|internvl3"),
    ("zh pictures, 80 GB", "a100-80g", "zh", {"modality": "image"}, r"qwen(2\.5|3)-vl|internvl3"),
    ("zh video, 24 GB", "rtx-4090", "zh", {"modality": "video"}, r"qwen(2\.5|3)-vl"),
    ("zh audio, 24 GB", "rtx-4090", "zh", {"modality": "audio"}, r".*(omni|audio)"),
    ("zh Raspberry Pi", "rtx-4090", "zh", {"deploy": "edge", "hardware": ("树莓派",)}, r"qwen.*-[01]\.[567]b"),
    ("zh Jetson", "rtx-4090", "zh", {"deploy": "edge", "hardware": ("jetson orin",)}, r"qwen3-(1\.7b|4b)"),
    ("zh phone", "rtx-3060", "zh", {"deploy": "edge", "hardware": ("手机",)}, r"qwen3-(1\.7b|4b)"),
    ("zh classification", "rtx-4090", "zh", {"goal": "classification"}, r"qwen3-(1\.7b|4b)"),
    ("zh extraction", "rtx-4090", "zh", {"goal": "extraction"}, r"qwen3-(1\.7b|4b)"),
    ("zh pre-training", "rtx-4090", "zh", {"goal": "continued_pretraining"}, r".*base$|qwen2\.5-7b$"),
    ("zh embedding", "rtx-4090", "zh", {"goal": "embedding"}, r"qwen3-embedding|bge"),
    ("en embedding", "rtx-4090", "en", {"goal": "embedding"}, r"qwen3-embedding|bge|gte"),
    ("zh re-ranking", "rtx-4090", "zh", {"goal": "reranking"}, r"qwen3-reranker|bge-reranker"),
    ("zh, 3B at most", "rtx-4090", "zh", {"constraints": {"parameters": "<=3B"}}, r"qwen(2\.5|3)-(1\.[57]b|3b)"),
    ("zh, quick answers", "rtx-4090", "zh", QUICK, r"qwen3-(1\.7b|4b)"),
    ("zh, Apache only", "rtx-4090", "zh", {"constraints": {"licence": "apache-2.0"}}, r"qwen3-8b"),
    ("zh, MIT only", "rtx-4090", "zh", {"constraints": {"licence": "mit"}}, r"glm-4-9b-0414|deepseek-r1"),
    ("zh on two cores", "cpu", "zh", {}, r"qwen(2\.5|3)-(0\.5b|0\.6b|1\.5b|1\.7b)"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "card", "language", "task", "first"), CASES, ids=[case[0] for case in CASES])
def test_an_expert_would_sign(what: str, card: str, language: str, task: dict[str, Any], first: str) -> None:
    found = asked(card, language, **task)
    best = found.best
    assert best is not None
    assert re.match(first, best.facts.id), (best.facts.id, best.words("en"))
    room = device(card).free_bytes * table("recommend")["memory_share"]
    assert best.train_bytes <= room
    assert len(found.ranked) >= 3, "runners-up"
    for one in found.ranked[1:4]:
        assert one.score <= best.score
        assert one.against(best).words("zh") != one.against(best).words("en")
    if "licence" in task.get("constraints", {}):
        assert best.facts.commercial
        assert best.facts.licence


def test_two_cores_without_a_hub_take_the_packaged_model() -> None:
    found = asked("cpu", here=OFFLINE)
    assert found.best is not None
    assert found.best.facts.packaged
    assert len(found.ranked) == 1
    reasons = {one.why_not.code for one in found.filtered if one.why_not}
    assert "out_unreachable" in reasons


def why_not(found: Any, name: str) -> str:
    one = next(c for c in found.filtered if c.facts.id == find(name).id)
    assert one.why_not is not None
    return str(one.why_not.code)


def test_each_filtered_model_has_its_reason() -> None:
    found = asked("rtx-4090", domain="medical", constraints=LICENCE)
    assert why_not(found, "medalpaca-7b") == "out_pickle"
    assert why_not(found, "huatuogpt2-7b") == "out_own_code"
    assert why_not(found, "medgemma-27b-text-it") == "out_gated"
    assert why_not(found, "qwen2.5-3b-instruct") == "out_licence"
    assert why_not(found, "qwen2.5-7b") == "out_kind"
    assert why_not(found, "qwen3-embedding-0.6b") == "out_kind"
    assert why_not(found, "qwen2.5-vl-7b-instruct") == "out_text_only"
    assert why_not(found, "qwen2.5-72b-instruct") == "out_memory"
    assert why_not(found, "Qwen/Qwen3-8B-AWQ") == "out_quantized"
    assert why_not(asked("rtx-4090", modality="image"), "qwen3-8b") == "out_modality"
    assert why_not(asked("rtx-4090", modality="audio"), "qwen2-audio-7b-instruct") == "out_unmet"
    assert why_not(asked("rtx-4090", hours=0.3), "qwen3-8b") == "out_slow"
    assert why_not(asked("h100", constraints={"parameters": "<=7B"}), "qwen3-14b") == "out_parameters"
    assert why_not(asked("h100", deploy="edge", hardware=("jetson",)), "qwen3-8b") == "out_edge_size"
    assert why_not(asked("h100", deploy="edge", hardware=("树莓派",)), "qwen3-4b") == "out_edge_slow"
    for one in found.filtered:
        assert one.why_not is not None
        for language in ("zh", "en"):
            assert one.why_not.words(language)


def test_a_specialist_with_an_old_base_is_behind_a_new_general_model_and_a_new_one_before_it() -> None:
    """The name alone does not win: MedAlpaca's base has 35 points of MMLU, and its training counts as others' did."""
    medalpaca = replace(find("medalpaca-7b"), blocked="", licence="Apache-2.0", commercial=True)
    models = (medalpaca, find("huatuogpt-o1-7b"), find("qwen3-8b"), find("qwen2.5-7b-instruct"))
    task = TaskProfile(text="x", language="en", domain="medical")
    found = recommend(task, machine("rtx-4090"), Constraints(availability=ONLINE), models)
    assert [one.facts.id for one in found.ranked] == [
        "huatuogpt-o1-7b", "qwen3-8b", "qwen2.5-7b-instruct", "medalpaca-7b",
    ]  # fmt: skip
    points = {part.name: part.points for part in found.ranked[-1].parts}
    assert points["domain"] > 5, "its training counts"
    assert points["ability"] < 40, "its base counts more"


def test_the_score_is_the_sum_of_parts_that_are_said_in_words() -> None:
    found = asked("rtx-4090", domain="medical")
    for one in found.ranked[:10]:
        assert one.score == pytest.approx(sum(part.points for part in one.parts), abs=1e-3)
        for part in one.parts:
            for language in ("zh", "en"):
                assert part.reason.words(language)
    best = found.best
    assert best is not None
    assert "HuatuoGPT-o1" in best.words("en")
    assert "医疗" in best.words("zh")


def test_the_edge_box_decides_the_format_and_says_why_not_the_other() -> None:
    def told(*hardware: str) -> tuple[str, str]:
        chosen, because, others = edge_format(edge_box(TaskProfile(text="x", language="zh", hardware=hardware)))
        assert because.words("zh")
        assert [name for name, _ in others] == ["gguf" if chosen == "gptq" else "gptq"]
        return chosen, others[0][1].code

    assert told("树莓派 5") == ("gguf", "edge_not_gptq_cuda")
    assert told("jetson orin") == ("gguf", "edge_not_gptq_memory")
    assert told("jetson agx orin") == ("gptq", "edge_not_gguf")
    assert told() == ("gguf", "edge_not_gptq_cuda")


def test_what_fits_only_squeezed_comes_behind_the_next_smaller_one_and_says_so() -> None:
    found = asked("rtx-4090")
    squeezed = next(one for one in found.ranked if one.facts.id == "qwen3-14b")
    assert (squeezed.method, squeezed.serve_bits) == ("qlora", 8)
    assert found.best is not None
    assert squeezed.against(found.best).code in ("behind_squeezed", "behind_cost")
    plain = next(one for one in asked("h100").ranked if one.facts.id == "qwen3-14b")
    assert (plain.method, plain.serve_bits) == ("lora", 16)
    assert plain.score - squeezed.score == pytest.approx(-table("recommend")["points"]["squeezed"])


def test_a_model_that_the_user_names_may_be_gated_slow_and_served_at_4_bits() -> None:
    named = Constraints(availability=ONLINE, seconds=600, named=True)
    task = TaskProfile(text="x", language="en")
    found = recommend(task, machine("rtx-4090"), named, (find("llama-3.1-8b-instruct"),))
    assert found.best is not None
    large = recommend(task, machine("a100-80g"), named, (find("llama-3.3-70b-instruct"),))
    assert large.best is not None
    assert large.best.serve_bits < 16


cards = st.sampled_from(["rtx-3060", "rtx-4090", "t4", "a100-80g", "h100", "cpu", "apple-m2-max", "ascend-910b"])
tasks = st.fixed_dictionaries(
    {
        "goal": st.sampled_from(["chat", "classification", "reasoning", "embedding", "continued_pretraining"]),
        "domain": st.sampled_from(["general", "medical", "code", "math", "customer_service"]),
        "modality": st.sampled_from(["text", "text", "image"]),
        "deploy": st.sampled_from(["none", "none", "edge"]),
    }
)


@given(cards, st.floats(1, 160), st.floats(1, 160), tasks, st.sampled_from(["zh", "en", "mixed"]))
@settings(max_examples=25, deadline=None)
def test_more_memory_never_gives_a_choice_of_lower_score(
    card: str, less: float, more: float, task: dict[str, str], language: str
) -> None:
    less, more = sorted((less, more))
    one = device(card)
    small, large = (asked(replace(one, free_bytes=int(gib * GIB)), language, **task) for gib in (less, more))
    if small.best is not None:
        assert large.best is not None, "what fits in less fits in more"
        assert large.best.score >= small.best.score
    for found in (small, large):
        for candidate in found.ranked:
            fits(candidate, found.edge is None)
        assert [c.score for c in found.ranked] == sorted((c.score for c in found.ranked), reverse=True)


def fits(candidate: Candidate, here: bool) -> None:
    assert candidate.method in ("lora", "qlora")
    assert candidate.train_bytes > 0
    assert candidate.serve_bytes > 0
    assert candidate.why_not is None
    assert here or candidate.serve_bits == 4
    assert not candidate.facts.blocked
    assert not candidate.facts.quantized
    assert not candidate.facts.gated


@given(cards, tasks)
@settings(max_examples=6, deadline=None)
def test_the_first_are_those_of_a_full_ranking_and_always_the_same(card: str, task: dict[str, str]) -> None:
    profile, where = TaskProfile(text="x", language="zh", **task), Constraints(availability=ONLINE)
    quick = recommend(profile, machine(card), where, depth=4).ranked[:4]
    whole = recommend(profile, machine(card), where, depth=10_000).ranked[:4]
    assert quick == whole
    assert recommend(profile, machine(card), where, depth=4).ranked[:4] == quick


def test_it_is_fast_over_the_whole_catalogue() -> None:
    asked("rtx-4090")  # tables are read once
    started = time.process_time()
    found = asked("l40s", domain="legal", language="en")
    assert time.process_time() - started < 0.3
    assert len(found.filtered) > 600
    started = time.process_time()
    asked("l40s", domain="legal", language="en")
    assert time.process_time() - started < 0.05, "a plan asks again and again"


def test_only_curated_models_also_do() -> None:
    found = recommend(TaskProfile(text="x", language="zh"), machine("rtx-4090"), models=all_models())
    assert found.best is not None
    assert found.best.facts.id == "qwen3-8b"
    assert len(all_models()) < len(catalog())

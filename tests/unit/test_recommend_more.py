"""Scores from published figures, probing the best few, and looking through the catalogue."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.catalog import benchmarks
from autoswift.catalog.models import catalog, find
from autoswift.decide.browse import Filters, models
from autoswift.decide.model import USEFUL_TOKENS
from autoswift.decide.probing import ProbeResult, best_of, probe_candidates
from autoswift.domain.budget import Budget
from autoswift.errors import InputError
from autoswift.tables import has_text, table
from unit.recommend_cases import asked


def test_every_figure_names_its_source_and_every_row_its_model() -> None:
    known, rows = table("benchmarks")["sources"], table("benchmarks")["scores"]
    names = [one.hf or one.ms for one in catalog()] + [one.id for one in catalog()]
    for row in rows:
        assert row["source"] in known
        scores = {key: value for key, value in row.items() if key not in ("match", "source")}
        assert scores
        assert all(0 < value < 100 for value in scores.values())
        assert any(re.search(row["match"], name, re.I) for name in names), row["match"]
    for pairs in table("benchmarks")["pairs"].values():
        for row in pairs:
            assert row["source"]
            assert 0 < row["before"] < 100
            assert 0 < row["after"] < 100


def test_a_published_score_is_taken_and_an_unpublished_one_is_estimated_with_its_spread() -> None:
    known = benchmarks.ability(find("qwen3-8b"), "mmlu")
    assert (known.points, known.measured, known.spread) == (76.9, True, 0.0)
    guess = benchmarks.ability(find("tencent/Hunyuan-7B-Instruct"), "mmlu")
    assert not guess.measured
    assert 3 < guess.spread < 9
    assert 65 < guess.points < 82, "between a 4B and a 14B of its year"


def test_the_fit_explains_what_was_published() -> None:
    fit = benchmarks.fitted("mmlu")
    assert fit.spread < 6, "points of MMLU"
    assert fit.size > 0
    assert fit.year > 0


@given(st.floats(1e8, 5e11), st.floats(1.05, 20), st.integers(0, 30))
def test_larger_and_younger_is_never_estimated_lower(size: float, times: float, months: int) -> None:
    one = replace(find("tencent/Hunyuan-7B-Instruct"), id="x", hf="nobody/x", ms="", parameters=int(size))
    old = replace(one, released="2023-06")
    young = replace(one, released=f"{2023 + (5 + months) // 12}-{(5 + months) % 12 + 1:02d}")
    larger = replace(one, parameters=int(size * times))
    points = [benchmarks.ability(facts, "mmlu").points for facts in (old, young, one, larger)]
    assert points[1] >= points[0]
    assert points[3] >= points[2]
    assert all(25 <= p <= 100 for p in points)


def test_what_a_specialist_gains_is_the_median_of_published_pairs_and_never_negative() -> None:
    assert benchmarks.gain("medical") == pytest.approx(8.5)
    assert benchmarks.gain("code") > 3
    assert benchmarks.gain("finance") == 0.0, "no gain was found by others"
    assert benchmarks.gain("roleplay") == 0.0


def test_the_useful_tokens_are_those_of_the_table() -> None:
    assert table("recommend")["useful_tokens"] == USEFUL_TOKENS


def test_every_rule_has_its_words() -> None:
    for row in table("recommend")["rules"]:
        assert has_text(f"decide.recommend.{row['reason']}", "zh")
    kinds = {one.kind for one in catalog()}
    for kind in kinds:
        assert has_text(f"decide.recommend.kind.{kind}", "zh"), kind


def test_probes_stay_within_their_share_of_the_budget() -> None:
    ranked = asked("rtx-4090").ranked
    wide = probe_candidates(ranked, 3, Budget(hours=12))
    assert [one.candidate.facts.id for one in wide.trials] == [one.facts.id for one in ranked[:3]]
    assert wide.seconds <= 12 * 3600 * table("recommend")["probe"]["share"]
    narrow = probe_candidates(ranked, 3, Budget(hours=1))
    assert narrow.trials == ()
    assert len(narrow.left_out) == 3
    for _, reason in narrow.left_out:
        assert reason.words("zh")
        assert reason.words("en")


@given(st.integers(0, 8), st.floats(0.1, 200))
def test_more_time_never_probes_fewer(n: int, hours: float) -> None:
    ranked = asked("rtx-4090").ranked
    less, more = (probe_candidates(ranked, n, Budget(hours=h)) for h in (hours, hours * 2))
    assert len(less.trials) <= len(more.trials) <= n
    assert len(less.trials) != 1
    assert less.seconds <= hours * 3600 * table("recommend")["probe"]["share"] + 1


def test_the_best_probe_gains_most_a_second_of_those_that_end_near_the_best() -> None:
    large = ProbeResult(id="large", before=1.2, after=1.0, seconds=40)
    middle = ProbeResult(id="middle", before=1.4, after=1.05, seconds=20)
    small = ProbeResult(id="small", before=3.0, after=1.8, seconds=5)
    assert best_of([large, middle, small]).id == "middle"
    assert best_of([large, small]).id == "large", "a fast gain from a bad start does not count"
    with pytest.raises(ValueError, match="no probe"):
        best_of([])


def test_the_catalogue_is_looked_through_by_filters() -> None:
    everything = models()
    assert len(everything) == len(catalog())
    json.dumps(everything)
    medical = {row["id"]: row for row in models(Filters(task="medical"))}
    assert {"huatuogpt-o1-7b", "medalpaca-7b", "medgemma-4b-it"} <= medical.keys()
    assert not medical["medalpaca-7b"]["usable"]
    assert "pickle" in medical["medalpaca-7b"]["why_not"]
    assert {row["kind"] for row in models(Filters(task="embedding"))} == {"embedding"}
    assert all(row["commercial"] for row in models(Filters(licence="commercial")))
    assert {row["licence"] for row in models(Filters(licence="mit"))} == {"MIT"}
    assert all("ja" in row["languages"] for row in models(Filters(language="ja")))
    assert all("image" in row["modalities"] for row in models(Filters(modality="image")))
    assert all(row["modality"] == "text" for row in models(Filters(modality="text")))
    assert all(6.3e9 <= row["parameters"] <= 7.7e9 for row in models(Filters(size="7B")))
    assert all(0 <= row["parameters"] <= 3.3e9 for row in models(Filters(size="<=3B", usable=True)))
    assert {row["id"] for row in models(Filters(size="3B-8B", domain="code", usable=True))} >= {
        "qwen2.5-coder-7b-instruct"
    }
    assert all(row["curated"] for row in models(Filters(curated=True)))


def test_a_card_says_what_fits_on_it() -> None:
    rows = {row["id"]: row["fit"] for row in models(Filters(gpu="RTX 4090", curated=True))}
    assert rows["qwen3-4b"]["fits"]
    assert rows["qwen3-4b"]["method"] == "lora"
    assert rows["qwen3-14b"]["method"] == "qlora"
    assert not rows["qwen2.5-72b-instruct"]["fits"]
    assert rows["qwen3-4b"]["train_gib"]["lora"] > rows["qwen3-4b"]["train_gib"]["qlora"]
    fitting = models(Filters(gpu="4090", fitting=True, curated=True))
    assert 0 < len(fitting) < len(rows)
    with pytest.raises(InputError, match="voodoo"):
        models(Filters(gpu="voodoo 2"))
    with pytest.raises(InputError, match="big"):
        models(Filters(size="big"))

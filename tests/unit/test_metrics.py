"""Metrics are what the literature says, and intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.evaluate.intervals import bootstrap, mean_of
from autoswift.evaluate.metrics import aggregate, chrf_rows, exact_match_rows, field_f1_rows, macro_f1, score_answers

texts = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=8)


@given(texts)
def test_a_perfect_answer_scores_highest(answers: list[str]) -> None:
    assert exact_match_rows(answers, answers) == [1.0] * len(answers)
    assert field_f1_rows(answers, answers) == [1.0] * len(answers)
    assert macro_f1(answers, answers) == pytest.approx(1.0)


def test_chrf_orders_chinese_answers_without_word_segmentation() -> None:
    reference = "请您在订单页面申请退货，运费由我们承担。"
    close, far, empty = chrf_rows(["请您在订单页申请退货，运费我们承担。", "I do not know.", ""], [reference] * 3)
    assert chrf_rows([reference], [reference]) == [pytest.approx(100.0)]
    assert 100 > close > 50 > 5 > far >= 0
    assert empty == 0


def test_field_f1_counts_fields_not_characters() -> None:
    reference = '{"name": "张三", "items": [{"sku": "A1"}, {"sku": "B2"}]}'
    assert field_f1_rows(['{"items": [{"sku": "a1"}, {"sku": "b2"}], "name": "张三"}'], [reference]) == [1.0]
    assert field_f1_rows(['```json\n{"name": "张三"}\n```'], [reference]) == [pytest.approx(0.5)]
    assert field_f1_rows(["not json"], [reference]) == [0.0]


def test_macro_f1_gives_rare_labels_the_same_weight() -> None:
    references = ["a"] * 9 + ["b"]
    # Always "a": F1 of a is 18/19, of b 0.
    assert macro_f1(["a"] * 10, references) == pytest.approx(9 / 19)


def test_a_trial_reports_its_metric_and_how_varied_its_answers_are() -> None:
    found = score_answers("exact_match", ["a", "a", "b", "c"], ["a", "b", "b", "x"])
    stderr = found.pop("exact_match_stderr")
    assert found == {"exact_match": 0.5, "answer_characters": 1.0, "distinct_answers": 0.75}
    assert stderr == pytest.approx(np.std([1, 0, 1, 0], ddof=1) / 2)
    with pytest.raises(ValueError, match="no answers"):
        aggregate("chrf", [], [])


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        sample = random.normal(1.0, 2.0, size=60)
        score = bootstrap(60, mean_of(sample), resamples=400, confidence=0.95, seed=seed)
        assert score.low is not None
        assert score.high is not None
        hits += score.low <= 1.0 <= score.high
    assert 87 <= hits <= 100


def test_an_interval_is_the_same_for_the_same_seed_and_absent_for_one_row() -> None:
    values = [1.0, 2.0, 5.0]
    first = bootstrap(3, mean_of(values), resamples=50, confidence=0.9, seed=3)
    assert first == bootstrap(3, mean_of(values), resamples=50, confidence=0.9, seed=3)
    assert bootstrap(1, mean_of([4.0]), resamples=50, confidence=0.9, seed=3).low is None

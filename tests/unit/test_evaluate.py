"""Comparisons decide by their written rule, the guard sees forgetting, leaks are found, programs run in a sandbox."""

from __future__ import annotations

import json
import math
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import make_plan

from autoswift.decide.outputs import METRIC_BY_GOAL as PLANNED
from autoswift.domain.artifact import Artifact, Score
from autoswift.domain.decision import Decision
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.errors import InputError
from autoswift.evaluate import forgetting, sandbox, suites, veto
from autoswift.evaluate.answers import Answers
from autoswift.evaluate.behaviour import keeps_language, refuses, repetition
from autoswift.evaluate.categories import categories_of
from autoswift.evaluate.comparison import Setting, compare
from autoswift.evaluate.intervals import chance, mean_interval
from autoswift.evaluate.kept import Kept, common, keep, kept, key_of
from autoswift.evaluate.labels import accuracy_rows, confusion, label_of, macro_f1
from autoswift.evaluate.leaks import find_leaks
from autoswift.evaluate.maths import same_answer, value_of
from autoswift.evaluate.metrics import METRIC_BY_GOAL, json_valid_rows, score_answers
from autoswift.evaluate.overlap import rouge_l, similarity_rows
from autoswift.evaluate.replay import mixed, prompts
from autoswift.evaluate.retrieval import ndcg, ranked_by, recall, reciprocal_rank, score_rankings
from autoswift.evaluate.stage import proven_worse
from autoswift.evaluate.verdict import decide
from autoswift.run.files import plain
from autoswift.run.record import RunRecord


def answers(texts: list[str], nll: float = 1.0) -> Answers:
    n = len(texts)
    return Answers(texts, [5] * n, [True] * n, [nll] * n, [1] * n, 1.0, [0.1] * n)


def rows_with(references: list[str]) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": r}]}
        for i, r in enumerate(references)
    ]


# -- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("The answer is 1,234.", "1234", True),
        ("所以答案是 3/4。", "0.75", True),
        ("\\boxed{\\frac{1}{2}}", "0.5", True),
        ("3 + 4 = 7, so the answer is 7 apples", "7", True),
        ("50%", "1/2", True),
        ("2\\sqrt{2}", "\\sqrt{8}", True),
        ("#### 42", "I think it is 42", True),
        ("(1, 2)", "(1,2)", True),
        ("(2, 1)", "(1,2)", False),
        ("x = 5", "5", True),
        ("5.01", "5", False),
        ("-3", "3", False),
        ("The answer is 12", "the answer is 21", False),
        ("", "7", False),
        ("B", "b", True),
        ("9^9^9^9", "1", False),
    ],
)
def test_answers_of_maths_are_equal_by_what_they_say(answer: str, reference: str, same: bool) -> None:
    assert same_answer(answer, reference) is same


@given(st.integers(-(10**9), 10**9), st.integers(1, 999))
def test_a_fraction_equals_itself_in_any_notation(numerator: int, denominator: int) -> None:
    latex = f"$\\frac{{{numerator}}}{{{denominator}}}$"
    assert value_of(latex) == value_of(f"{numerator}/{denominator}") == value_of(f"({numerator})/{denominator}")
    assert same_answer(f"the answer is {latex}.", f"{numerator}/{denominator}")


@given(st.text(max_size=60))
def test_no_text_stops_the_comparison_of_answers(text: str) -> None:
    assert same_answer(text, "7") is same_answer(text + " ", " 7")
    assert label_of(text, ["a", "b"]) in ("a", "b", "\0")


def test_maths_agrees_with_math_verify_where_that_is_installed() -> None:
    verify = pytest.importorskip("math_verify")
    pairs = [("1/2", "0.5"), ("\\frac{3}{4}", "0.75"), ("7", "8"), ("2\\sqrt{2}", "\\sqrt{8}"), ("1{,}000", "1000")]
    for answer, reference in pairs:
        theirs = verify.verify(verify.parse(f"${reference}$"), verify.parse(f"${answer}$"))
        assert same_answer(answer.replace("{,}", ","), reference) == theirs, (answer, reference)


def test_labels_are_read_as_people_write_them() -> None:
    labels = ["positive", "negative", "very positive", "退货"]
    assert label_of('Label: "Positive".', labels) == "positive"
    assert label_of('{"label": "negative"}', labels) == "negative"
    assert label_of("I think this is very positive!", labels) == "very positive"
    assert label_of("类别：退货", labels) == "退货"
    assert label_of("positive or negative", labels) not in labels
    found = confusion(["positive", "nonsense", "negative"], ["positive", "positive", "negative"])
    assert found["matrix"][found["labels"].index("positive")][-1] == 1
    assert found["unnamed"] == 1
    assert macro_f1(["Positive.", "negative"], ["positive", "negative"]) == 1.0


def test_a_goal_has_its_metric_in_trials_too() -> None:
    assert METRIC_BY_GOAL["reasoning"] == "exact_match"
    assert METRIC_BY_GOAL | PLANNED == METRIC_BY_GOAL  # the plan names the same
    found = score_answers("exact_match", ["The answer is 7.", "8"], ["#### 7", "9"])
    assert found["exact_match"] == 0.5
    labels = score_answers("macro_f1", ["Label: a", "b", "b"], ["a", "b", "a"])
    assert labels["accuracy"] == pytest.approx(2 / 3)
    assert labels["macro_f1_stderr"] > 0
    assert json_valid_rows(['{"a": 1}', "no", '```json\n{"a": 2}\n```'], ['{"a": 1}'] * 3) == [1.0, 0.0, 1.0]


def test_rouge_l_is_the_known_one() -> None:
    # Values of Google's rouge_score 0.1.2.
    assert rouge_l("the cat sat on the mat", "the cat is on the mat") == pytest.approx(5 / 6)
    assert rouge_l("a b c d", "d c b a") == pytest.approx(0.25)
    assert rouge_l("x", "y z") == 0
    assert rouge_l("我要退货", "我要换货") == pytest.approx(0.75)


def test_retrieval_measures_are_the_textbooks() -> None:
    relevant = {"a": 3.0, "b": 2.0}
    assert ndcg(["a", "b", "c"], relevant) == 1.0
    assert ndcg(["c", "a"], {"a": 1.0}) == pytest.approx(1 / math.log2(3))
    assert recall(["c", "a"], relevant, 2) == 0.5
    assert reciprocal_rank(["c", "a"], relevant) == 0.5
    assert ranked_by({"x": 0.1, "y": 0.9}) == ["y", "x"]
    assert score_rankings([["a"], ["c"]], [{"a": 1.0}, {"a": 1.0}])["mrr"] == 0.5


def test_behaviour_is_seen_in_the_answers() -> None:
    assert repetition("你好吗" * 30) > 0.8
    assert repetition("The quick brown fox jumps over the lazy dog.") == 0.0
    assert refuses("I'm sorry, but I cannot help with that.")
    assert refuses("很抱歉，我无法回答这个问题。")
    assert not refuses("很抱歉给您带来不便，您可以在订单页面申请退货。")
    assert not keeps_language("Sure, you can.", "可以的，请申请退货。")


# -- the verdict ------------------------------------------------------------------------------------------------------


def test_a_model_against_itself_shows_no_difference_in_at_least_19_of_20_seeds() -> None:
    """Two drawn sets of answers of one and the same model: right with the same chance on each row."""
    same = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        hard = random.uniform(0.2, 0.8, 64)
        draw = [[f"a{i}" if random.random() < p else "no" for i, p in enumerate(hard)] for _ in range(2)]
        references = [f"a{i}" for i in range(64)]
        setting = Setting(metric="exact_match", seed=seed)
        found = compare(answers(draw[0]), answers(draw[1]), rows_with(references), references, setting)
        same += found["verdict"]["kind"] == "same"
    assert same >= 19
    greedy = answers(draw[0])
    again = compare(greedy, greedy, rows_with(references), references, setting)
    assert again["verdict"]["kind"] == "same"
    assert again["difference"]["exact_match"].value == 0


def test_equal_models_are_called_different_about_once_in_a_hundred() -> None:
    random = np.random.default_rng(5)
    wrong = 0
    for seed in range(300):
        gain = random.normal(0, 1, 24)
        difference = mean_interval(gain.tolist(), resamples=400, confidence=0.95, seed=seed)
        wrong += decide("chrf", difference, 24, chance(gain.tolist(), seed)).kind != "same"
    assert wrong <= 9  # 3 expected; 10 or more happen by chance in 1 of 1,000


def test_a_better_model_is_called_better_in_words() -> None:
    references = [f"answer {i}" for i in range(40)]
    base = answers(["no"] * 40)
    tuned = answers(references[:30] + ["no"] * 10)
    guard = plain(forgetting.judge([1.0] * 10, [1.0] * 10, forgetting.items()[:10]))
    found = compare(base, tuned, rows_with(references), references, Setting(metric="chrf"), (guard, None))
    verdict = found["verdict"]
    assert (verdict["kind"], verdict["ship"]) == ("better", "ship")
    assert verdict["words"]["en"].startswith("better by 69.2 ± 11.6 points")
    assert verdict["words"]["en"].endswith("general ability unchanged; ship.")
    assert "通用能力未受影响；建议上线。" in verdict["words"]["zh"]
    assert found["wins"] == {"tuned": 30, "base": 0, "ties": 10}
    assert {e["kind"] for e in found["examples"]} == {"win"}  # the greatest, then the first others
    refused = decide("chrf", found["difference"]["chrf"], 40, 0.0001, {"kind": "veto", "difference": {"value": -0.2}})
    assert refused.ship == "refuse"
    assert "20.0" in refused.words["en"]


def test_a_lower_likelihood_loss_is_better_not_worse() -> None:
    down = Score(value=-0.5, low=-0.6, high=-0.4)
    assert decide("nll", down, 30, 0.001).kind == "better"
    assert decide("chrf", down, 30, 0.001).kind == "worse"
    assert decide("chrf", down, 7, 0.001).kind == "unknown"
    assert decide("chrf", down, 30, 0.04).hint
    assert proven_worse({"metric": "nll", "difference": {"nll": down}}) is False
    assert proven_worse({"metric": "chrf", "difference": {"chrf": plain(down)}}) is True
    assert proven_worse({"metric": "chrf", "difference": {"chrf": plain(down)}, "guard": {"verdict": {"kind": "veto"}}})


def test_classification_is_compared_by_macro_f1_and_by_label() -> None:
    references = ["a"] * 20 + ["b"] * 20
    base, tuned = answers(["a"] * 40), answers(["a"] * 20 + ["Label: b"] * 18 + ["a"] * 2)
    found = compare(base, tuned, rows_with(references), references, Setting(metric="macro_f1"))
    assert found["verdict"]["kind"] == "better"
    assert found["difference"]["macro_f1"].low > 0
    by_label = {c["name"]: c["difference"].value for c in found["categories"] if c["by"] == "label"}
    assert by_label == {"a": 0.0, "b": 0.9}
    assert found["confusion"]["tuned"]["matrix"][1] == [2, 18, 0]
    assert accuracy_rows(["A."], ["a"]) == [1.0]


def test_categories_leave_out_what_is_all_alike() -> None:
    references = ["x" * (i + 1) for i in range(12)]
    found = categories_of(rows_with(references), references, "chrf")
    assert set(found) == {("length", n) for n in ("short", "middle", "long")}
    assert sum(len(v) for v in found.values()) == 12


@settings(max_examples=30)
@given(st.lists(st.floats(-5, 5, allow_nan=False), min_size=1, max_size=30), st.integers(0, 9))
def test_chance_is_a_probability_and_ignores_the_sign(gains: list[float], seed: int) -> None:
    p = chance(gains, seed)
    assert 0 < p <= 1
    assert chance([-g for g in gains], seed) == pytest.approx(p, abs=0.02)


# -- the guard --------------------------------------------------------------------------------------------------------


def test_the_guard_set_asks_several_abilities_in_both_languages() -> None:
    asked = forgetting.items()
    assert len(asked) >= 120
    assert {i.language for i in asked} == {"zh", "en"}
    assert len({i.ability for i in asked}) >= 6
    assert all(2 <= len(set(i.options)) == len(i.options) for i in asked)
    assert len({i.prompt for i in asked}) == len(asked)
    assert not {i.prompt for i in asked} & {row["messages"][0]["content"] for row in prompts()}
    for language, prompt, rule in forgetting.rules():
        assert forgetting.follows(rule, "") is False, (language, prompt)


def test_rules_of_instructions_hold_where_they_should() -> None:
    assert forgetting.follows("json_keys:name,age", '```json\n{"name": "Ann", "age": 30}\n```')
    assert not forgetting.follows("json_keys:name,age", "name: Ann, age: 30")
    assert forgetting.follows("number:4", "4.")
    assert not forgetting.follows("number:4", "It has 4 legs, or 3")
    assert forgetting.follows("commas:2", "苹果、梨、桃")
    assert forgetting.follows("script:zh", "是“你好”的意思。")
    with pytest.raises(ValueError, match="no such rule"):
        forgetting.follows("sings:loud", "la")


def reply(right: list[bool]) -> dict[str, Any]:
    rows = []
    for ok, item in zip(right, forgetting.items(), strict=True):
        n = len(item.options)
        rows.append({"nll_sums": [1.0 if ok else 9.0] + [5.0] * (n - 1), "tokens": [2] * n})
    return {"rows": rows}


def knows(share: float, seed: int) -> list[bool]:
    random = np.random.default_rng(seed)
    return (random.random(len(forgetting.items())) < share).tolist()


def test_a_model_that_has_lost_a_third_of_what_it_knew_is_vetoed() -> None:
    base = forgetting.scored(reply(knows(0.7, 1)))
    broken = forgetting.judge(base, forgetting.scored(reply(knows(0.3, 2))), forgetting.items())
    assert broken["kind"] == "veto"
    assert broken["lost_share"] > 0.7
    same = forgetting.judge(base, base, forgetting.items())
    assert (same["kind"], same["difference"].value) == ("pass", 0)
    assert {a["name"] for a in same["abilities"]} >= {"fact", "json", "reading"}
    nothing = reply(knows(0.7, 1))
    for row in nothing["rows"]:
        row["nll_sums"] = [None] * len(row["nll_sums"])
    assert sum(forgetting.scored(nothing)) == 0


def test_a_small_but_sure_drop_warns() -> None:
    base = [1.0] * 100 + [0.0] * 27
    tuned = [1.0] * 91 + [0.0] * 36
    found = forgetting.judge(base, tuned, forgetting.items())
    assert found["kind"] == "warn"
    assert found["difference"].high < 0


def test_noise_in_the_guard_is_seldom_a_veto() -> None:
    kinds = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        p = random.uniform(0.1, 0.9, len(forgetting.items()))
        a, b = ((random.random(len(p)) < p).astype(float).tolist() for _ in range(2))
        kinds.append(forgetting.judge(a, b, forgetting.items(), seed)["kind"])
    assert kinds.count("veto") <= 3
    assert kinds.count("pass") >= 35


def trained(rate: float = 3e-4) -> dict[str, Any]:
    return {"trial": 2, "parameters": {"learning_rate": rate, "lora_rank": 8}, "metrics": {"tokens": 8000}}


VETOED = plain(forgetting.judge([1.0] * 127, [0.0] * 127, forgetting.items()))


def test_after_a_veto_the_training_is_gentler_twice_and_then_there_is_nothing_left() -> None:
    plan = make_plan()
    first = veto.after_veto(plan, trained(), VETOED, 0, "en")
    assert first is not None
    assert first.parameters["learning_rate"] == pytest.approx(1e-4)
    assert (first.tokens, first.plan.training.replay_share, first.plan.revision) == (4000, 0.25, 2)
    assert first.plan.decision("guard_veto").source == "measurement"
    then = trained(first.parameters["learning_rate"]) | {"metrics": {"tokens": 4000}}
    second = veto.after_veto(first.plan, then, VETOED, 1, "zh")
    assert second is not None
    assert second.parameters["learning_rate"] == pytest.approx(3e-5)
    assert second.tokens == 2000
    assert veto.after_veto(second.plan, then, VETOED, 2, "en") is None


def test_what_the_user_fixed_stays_after_a_veto() -> None:
    plan = make_plan()
    fixed = Decision(name="learning_rate", value=3e-4, because="", source="user")
    found = veto.after_veto(replace(plan, decisions=(fixed,)), trained(), VETOED, 0, "en")
    assert found is not None
    assert found.parameters["learning_rate"] == 3e-4
    assert found.plan.training.learning_rate == plan.training.learning_rate


def test_replayed_rows_have_their_share() -> None:
    train = [{"messages": [{"role": "user", "content": str(i)}]} for i in range(90)]
    found = mixed(train, prompts(), 0.25, 1)
    assert len(found) == 120
    assert all(row in found for row in train)
    assert mixed(train, prompts(), 0.25, 1) == found
    assert mixed(train, [], 0.25, 1) == train


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_a_leak_planted_in_the_test_set_is_found() -> None:
    train = [
        {"messages": [{"role": "user", "content": f"订单 {i} 的商品坏了，第 {i * 7} 号仓库什么时候可以退货给我？"}]}
        for i in range(60)
    ]
    clean = [
        {"messages": [{"role": "user", "content": t}]}
        for t in ("How do I boil an egg properly?", "请写一首关于春天的诗", "What is the tallest mountain of Europe?")
    ]
    assert find_leaks(clean, train)["leaked"] == 0
    planted = {"messages": [{"role": "system", "content": "x"}, train[7]["messages"][0]]}
    found = find_leaks([*clean, planted], train)
    assert found["indices"] == [3]
    assert found["serious"]
    assert found["examples"][0]["similarity"] == 1.0


def test_kept_answers_are_compared_on_the_rows_in_common(tmp_path: Path) -> None:
    references = [f"r{i}" for i in range(10)]
    rows = rows_with(references)
    (tmp_path / "run.json").write_text(json.dumps({"version": 1, "id": "r1", "created": 1.0}), encoding="utf-8")
    keep(tmp_path, rows, references, {"base": answers(["no"] * 10), "tuned": answers(references)})
    one, other = kept(RunRecord(tmp_path), "base"), kept(RunRecord(tmp_path), "tuned")
    assert other.answers.texts == references
    assert [key_of(row) for row in rows] == one.keys
    half = Kept("half", other.rows[5:], other.references[5:], other.keys[5:], answers(references[5:]), "chrf")
    a, b = common(one, half)
    assert a.keys == b.keys == one.keys[5:]
    assert b.answers.texts == references[5:]
    with pytest.raises(InputError, match="in common"):
        common(one, replace(half, keys=["other"] * 5))
    with pytest.raises(InputError, match="kept answers"):
        kept(RunRecord(tmp_path), "q8_0")


def test_meaning_is_nearer_between_paraphrases_than_between_strangers() -> None:
    from autoswift.understand.embedding import embedder

    encoder = embedder()
    assert encoder is not None
    near, far, empty = similarity_rows(
        encoder, ["You can send it back", "The moon is bright", ""], ["You may return the item"] * 3
    )
    assert near > far > empty == 0


TASK = {
    "task_id": "T/0",
    "prompt": 'def add(a: int, b: int) -> int:\n    """Sum."""\n',
    "entry_point": "add",
    "test": "def check(f):\n    assert f(2, 3) == 5\n",
}


def needs_bwrap() -> None:
    try:
        sandbox.bubblewrap()
    except InputError:
        pytest.skip("no bubblewrap here")


def test_programs_of_a_model_run_in_a_sandbox(tmp_path: Path) -> None:
    needs_bwrap()
    secret = tmp_path / "secret"
    secret.write_text("x", encoding="utf-8")
    steal = f"    open({str(secret)!r})\n    return a + b\n"
    net = "    import socket\n    socket.create_connection(('1.1.1.1', 53), 1)\n    return a + b\n"
    fence = "```python\ndef add(a, b):\n    return a + b\n```"
    said = iter(["    return a + b\n", "    return a - b\n", steal, net, fence])
    found = sandbox.pass_at_1([TASK] * 5, lambda prompt: next(said))
    assert [one["passed"] for one in found] == [True, False, False, False, True]
    assert "secret" in found[2]["said"]


def test_without_a_sandbox_nothing_is_asked_and_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="no sandbox"):
        sandbox.pass_at_1([TASK], lambda prompt: pytest.fail("asked"))


def test_a_suite_is_known_by_its_files_and_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "law_val.jsonl").write_text('{"question": "q", "A": "x", "B": "y", "answer": "A"}\n', encoding="utf-8")
    found = suites.suite_of(str(tmp_path))
    assert (found.name, found.subsets) == ("general_mcq", ("law",))
    with pytest.raises(InputError, match="runs programs"):
        suites.suite_of(f"humaneval={tmp_path}")
    with pytest.raises(InputError, match="no such folder"):
        suites.suite_of("mmlu=/nowhere")
    assert suites.rows_for(0.05) == 385
    assert suites.rows_for(0.05, whole=1000) == 278


REPORT = {
    "metrics": [
        {
            "identity": {"name": "accuracy"},
            "num": 4,
            "score": 0.75,
            "categories": [{"subsets": [{"name": "law", "score": 0.75, "num": 4}]}],
        }
    ]
}


def test_figures_are_those_that_evalscope_reports(tmp_path: Path) -> None:
    for place, name in (("reports", "general_mcq.json"), ("reviews", "general_mcq_law.jsonl")):
        (tmp_path / place / "m").mkdir(parents=True)
        lines = [{"sample_score": {"score": {"value": {"accuracy": float(i > 0)}}}} for i in range(4)]
        said = json.dumps(REPORT) if place == "reports" else "\n".join(map(json.dumps, lines))
        (tmp_path / place / "m" / name).write_text(said, encoding="utf-8")
    found = suites.read_result(tmp_path, "general_mcq")
    assert (found["metric"], found["score"], found["rows"]) == ("accuracy", 0.75, 4)
    assert found["subsets"] == [{"name": "law", "score": 0.75, "rows": 4}]
    assert found["low"] < 0.75 < found["high"]


@pytest.mark.slow
def test_evalscope_runs_against_a_server_and_our_figures_are_its_own(tmp_path: Path) -> None:
    """A server that always says A, on questions of which nine of twelve are A."""

    class Says(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            message = {"role": "assistant", "content": "ANSWER: A"}
            usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            said = json.dumps(body | {"usage": usage}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    data = tmp_path / "suite"
    data.mkdir()
    options = {"A": "x", "B": "y", "C": "z", "D": "w"}
    rows = [{"question": f"q{i}", "answer": "A" if i % 4 else "B"} | options for i in range(12)]
    (data / "law_val.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (data / "law_dev.jsonl").write_text(json.dumps(rows[1]), encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Says)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/v1"
        found = suites.run_suite(address, "m", suites.suite_of(str(data)), tmp_path)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    reported = json.loads(Path(found["report"]).read_text(encoding="utf-8"))
    assert found["score"] == reported["metrics"][0]["score"] == 0.75
    assert found["rows"] == 12
    assert not list(tmp_path.rglob("*.html"))


# -- the guard's loop, with a simulated model and engine ---------------------------------------------------------------


class FakeWorker:
    """Answers `choose` with what the loaded model knows: the base everything, a checkpoint by its name."""

    def __init__(self) -> None:
        self.loaded = ""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "load":
            self.loaded = str(arguments.get("adapter") or arguments["model"])
            return {}
        if do == "generate":
            return {"answers": [{"text": "Yes."} for _ in arguments["rows"]]}
        good = "bad" not in self.loaded
        return reply(knows(0.8 if good else 0.25, 3))

    def close(self) -> None:
        self.loaded = ""


class FakeSession:
    """Trains at once; the checkpoint is bad while the learning rate is above a bound."""

    def __init__(self, folder: Path, bound: float) -> None:
        self.folder, self.bound = folder, bound
        self.trial: Trial | None = None

    def submit(self, trial: Trial, from_checkpoint: Path | None = None) -> None:
        self.trial = trial

    def events(self, timeout: float) -> list[Event]:
        assert self.trial is not None
        name = "good" if self.trial.parameters["learning_rate"] < self.bound else "bad"
        place = self.folder / "trials" / str(self.trial.number) / "attempt-1" / "output" / name
        place.mkdir(parents=True)
        (place.parent.parent / "command.json").write_text('{"argv": ["swift", "sft"]}', encoding="utf-8")
        return [
            Event(
                kind="finished",
                trial=self.trial.number,
                time=0.0,
                metrics={"tokens": float(self.trial.tokens), "chrf": 30.0},
                artifact=Artifact(path=str(place.relative_to(self.folder)), kind="adapter"),
            )
        ]

    def close(self) -> None:
        self.trial = None


def guarded_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: float) -> Any:
    from autoswift.domain.task import Task
    from autoswift.run.context import RunContext
    from autoswift.run.record import create
    from autoswift.run.steps import Steps

    record = create(Task(sentence="x"), tmp_path / "run")
    plan = make_plan()
    record.save_plan(plan)
    (record.folder / "data").mkdir()
    (record.folder / "data" / "train.fit.jsonl").write_text('{"messages": []}\n' * 4, encoding="utf-8")
    record.save_step("fetch", {"inputs": "", "result": {"value": {"path": "/base", "system": ""}}})
    value = trained() | {"checkpoint": "trials/2/bad"}
    record.save_step("train", {"inputs": "i", "result": {"value": value}})
    clock = SimpleNamespace(left=1000.0)
    context = RunContext(record, record.journal, record.task(), clock)  # type: ignore[arg-type]
    engine = SimpleNamespace(open=lambda plan, device: FakeSession(record.folder, bound))
    monkeypatch.setattr(veto, "engine_of", lambda *rest: engine)
    device = Device(kind="cpu", name="cpu", index=0, memory_bytes=1, free_bytes=1)
    steps = Steps(record, context.journal)
    found = veto.guarded(context, steps, plan, (device, lambda a, r: {}, 8), FakeWorker())  # type: ignore[arg-type]
    return context, found


def test_a_harmful_training_is_vetoed_and_a_gentler_one_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, plan = guarded_run(tmp_path, monkeypatch, bound=2e-4)
    guard = context.record.value("guard")
    assert [one["kind"] for one in guard["tries"]] == ["veto", "pass"]
    assert context.record.value("train")["checkpoint"].endswith("/good")
    assert context.record.value("train")["parameters"]["learning_rate"] == pytest.approx(1e-4)
    assert context.shortfalls == []
    assert plan.revision == 2
    assert (context.folder / "data" / "train.replay.jsonl").exists()
    assert [t["origin"] for t in context.journal.trials() if t["event"] == "proposed"] == ["guard-1"]


def test_when_no_gentler_training_is_better_the_run_falls_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, plan = guarded_run(tmp_path, monkeypatch, bound=1e-9)
    guard = context.record.value("guard")
    assert [one["kind"] for one in guard["tries"]] == ["veto", "veto", "veto"]
    assert plan.revision == 3
    assert len(context.shortfalls) == 1  # exit code 3
    assert proven_worse({"metric": "chrf", "difference": {}, "guard": guard})

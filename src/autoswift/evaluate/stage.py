"""The stage `evaluate`: the test set is opened once, for the base and for the result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoswift.decide.schedule import SLACK
from autoswift.domain.artifact import Score, StepResult
from autoswift.domain.plan import EvaluationSettings, Plan
from autoswift.engines.stages import last_answer, load_arguments
from autoswift.engines.worker import ModelWorker
from autoswift.errors import StageFailed
from autoswift.evaluate.intervals import bootstrap, mean_of
from autoswift.evaluate.metrics import ROWS, macro_f1
from autoswift.run.context import RunContext
from autoswift.tables import explain, text

LEAST_ROWS = 8
"""Fewer answers than this give no interval worth printing; the time limit never cuts below it."""

EXAMPLES = 8
"""Answers shown side by side in the report: enough to judge, few enough to read."""

RESAMPLES_MACRO = 500
"""Macro-F1 is recomputed on each resample; 500 keep the bound's error near 2 % of the interval's width."""

Row = dict[str, Any]


@dataclass(slots=True)
class Answers:
    """One model's answers to the test rows, in order; negative log-likelihood per row."""

    texts: list[str]
    tokens: list[int]
    stopped: list[bool]
    nll_sums: list[float]
    nll_tokens: list[int]
    seconds: float


def answer(
    worker: ModelWorker,
    load: dict[str, Any],
    rows: Sequence[Row],
    settings: EvaluationSettings,
    deadline: float,
    progress: Callable[[int], None],
) -> Answers:
    """Loads a model and lets it answer rows, batch by batch, until they or the time are at an end.

    Args:
        load: arguments of the worker's `load`.
        deadline: unix seconds; at least `LEAST_ROWS` rows are answered whatever it says.
        progress: is told the number of answered rows.
    """
    worker.ask("load", **load)
    found = Answers([], [], [], [], [], 0.0)
    begin = time.monotonic()
    size = settings.generation_batch_size
    for start in range(0, len(rows), size):
        if start >= LEAST_ROWS and time.time() > deadline:
            break
        batch = list(rows[start : start + size])
        prompts = [{"messages": row["messages"]} for row in batch]
        made = worker.ask("generate", rows=prompts, max_new_tokens=settings.max_new_tokens, batch_size=size)
        scored = worker.ask("score", rows=prompts, batch_size=size)
        found.texts += [str(a["text"]) for a in made["answers"]]
        found.tokens += [int(a["tokens"]) for a in made["answers"]]
        found.stopped += [bool(a["stopped"]) for a in made["answers"]]
        found.nll_sums += [float(r["nll_sum"]) for r in scored["rows"]]
        found.nll_tokens += [int(r["tokens"]) for r in scored["rows"]]
        progress(len(found.texts))
    found.seconds = time.monotonic() - begin
    return found


def evaluate_stage(context: RunContext, plan: Plan, merged: Path, worker: ModelWorker) -> StepResult:
    """Base against tuned on the same test rows, with paired bootstrap intervals."""
    opened = time.time()
    path = context.folder / "data" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][: plan.evaluation.test_rows]
    if not rows:
        raise StageFailed(*explain("evaluate.empty", path=path))
    context.journal.event("test_opened", rows=len(rows), models=["base", "tuned"])
    base_folder = Path(context.record.value("fetch")["path"])
    # What comes after the evaluation needs its share of the reserve; both models get half of the rest.
    stages = plan.estimate.stage_seconds
    later = SLACK * sum(stages.get(n, 0.0) for n in ("export", "deploy", "loadtest", "report"))
    left = max(0.0, context.clock.left - later)
    answers: dict[str, Answers] = {}
    for name, folder, end in (
        ("base", base_folder, opened + left / 2),
        ("tuned", merged, opened + left),
    ):
        todo = rows if name == "base" else rows[: len(answers["base"].texts)]
        answers[name] = answer(
            worker, load_arguments(context, plan, folder), todo, plan.evaluation, end, _teller(context, name, len(rows))
        )
    count = min(len(a.texts) for a in answers.values())
    if count < len(rows):
        context.fall_short(text("short.test", context.task.language, done=count, asked=len(rows)))
    references = [last_answer(row) for row in rows[:count]]
    value = compare(answers["base"], answers["tuned"], references, plan)
    value["examples"] = [
        {
            "prompt": rows[i]["messages"][:-1],
            "reference": references[i],
            "base": answers["base"].texts[i],
            "tuned": answers["tuned"].texts[i],
        }
        for i in range(min(EXAMPLES, count))
    ]
    return StepResult(value=value | {"test_opened": opened})


def _teller(context: RunContext, name: str, total: int) -> Callable[[int], None]:
    def told(done: int) -> None:
        context.journal.progress(stage="evaluate", done=done, total=total, unit="answers", text=name)

    return told


def compare(base: Answers, tuned: Answers, references: Sequence[str], plan: Plan) -> dict[str, Any]:
    """Scores of both, and of the difference tuned - base, each with its interval."""
    settings, count = plan.evaluation, len(references)
    metric = settings.metric
    result: dict[str, Any] = {
        "metric": metric,
        "rows": count,
        "confidence": settings.confidence,
        "base": {"scores": {}},
        "tuned": {"scores": {}},
        "difference": {},
    }
    for name, higher_is_better, values in _per_row(metric, base, tuned, references):
        stats = {which: mean_of(v) for which, v in zip(("base", "tuned"), values, strict=True)}
        difference = mean_of([t - b for b, t in zip(*values, strict=True)])
        _add(result, name, (stats["base"], stats["tuned"], difference), (count, settings.bootstrap), plan)
        if name == metric:
            result["wins"] = _wins(*values, higher_is_better=higher_is_better)
    if metric == "macro_f1":
        _add_macro(result, base.texts[:count], tuned.texts[:count], references, plan)
    for which, one in (("base", base), ("tuned", tuned)):
        result[which]["seconds_per_answer"] = one.seconds / max(1, len(one.texts))
        result[which]["distinct_answers"] = len(set(one.texts[:count])) / count
    return result


def _per_row(
    metric: str, base: Answers, tuned: Answers, references: Sequence[str]
) -> list[tuple[str, bool, tuple[list[float], list[float]]]]:
    """(name, higher is better, (base, tuned) values a row) of each measure."""
    n = len(references)
    found: list[tuple[str, bool, tuple[list[float], list[float]]]] = []
    names = [metric] if metric in ROWS else []
    for name in [*names, *(m for m in ("chrf", "exact_match") if m != metric)]:
        score = ROWS[name]
        found.append((name, True, (score(base.texts[:n], references), score(tuned.texts[:n], references))))
    nll = [[s / max(t, 1) for s, t in zip(a.nll_sums[:n], a.nll_tokens[:n], strict=True)] for a in (base, tuned)]
    found.append(("nll", False, (nll[0], nll[1])))
    found.append(("stopped", True, ([float(s) for s in base.stopped[:n]], [float(s) for s in tuned.stopped[:n]])))
    found.append(("answer_tokens", True, ([float(t) for t in base.tokens[:n]], [float(t) for t in tuned.tokens[:n]])))
    return found


def _add(result: dict[str, Any], name: str, stats: tuple[Any, Any, Any], size: tuple[int, int], plan: Plan) -> None:
    rows, resamples = size
    scores: list[Score] = [
        bootstrap(rows, s, resamples=resamples, confidence=plan.evaluation.confidence, seed=plan.seed) for s in stats
    ]
    result["base"]["scores"][name], result["tuned"]["scores"][name], result["difference"][name] = scores


def _add_macro(
    result: dict[str, Any], base: Sequence[str], tuned: Sequence[str], references: Sequence[str], plan: Plan
) -> None:
    def of(answers: Sequence[str]) -> Callable[[Sequence[int]], float]:
        return lambda indices: macro_f1([answers[i] for i in indices], [references[i] for i in indices])

    b, t = of(base), of(tuned)
    _add(result, "macro_f1", (b, t, lambda i: t(i) - b(i)), (len(references), RESAMPLES_MACRO), plan)
    same = ROWS["exact_match"]
    result["wins"] = _wins(same(base, references), same(tuned, references), higher_is_better=True)


def _wins(base: Sequence[float], tuned: Sequence[float], *, higher_is_better: bool) -> dict[str, int]:
    sign = 1 if higher_is_better else -1
    better = sum(sign * t > sign * b for b, t in zip(base, tuned, strict=True))
    worse = sum(sign * t < sign * b for b, t in zip(base, tuned, strict=True))
    return {"tuned": better, "base": worse, "ties": len(base) - better - worse}


def proven_worse(value: dict[str, Any]) -> bool:
    """Whether the whole interval of the difference lies on the wrong side of 0."""
    high = value["difference"][value["metric"]]
    upper = high.high if isinstance(high, Score) else high["high"]
    return upper is not None and upper < 0

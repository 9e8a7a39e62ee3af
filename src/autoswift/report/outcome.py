"""What came out: the headline, the evaluation, the serving, and what it does not prove."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from autoswift.report import charts, words

if TYPE_CHECKING:
    from autoswift.report.context import Source

FEW_TEST_ROWS = 100
"""Below it the 95 % interval of a share is wider than ±10 points."""
FEW_TRIALS = 10
"""Below it a model-based sampler has hardly left its random start (Optuna's default is 10)."""
LOWER_IS_BETTER = frozenset({"nll", "loss", "latency_seconds", "perplexity"})


def headline(source: Source) -> dict[str, Any] | None:
    """Base and tuned on the test set, the difference, and what that means in words."""
    value = source.value("evaluate")
    result = source.state.get("result") or {}
    metric = value.get("metric") or result.get("metric")
    base, tuned = _score(value, "base", metric), _score(value, "tuned", metric)
    difference = (value.get("difference") or {}).get(metric) or {}
    if base is None and result.get("base") is not None:
        base, tuned = {"value": result["base"]}, {"value": result.get("tuned")}
        difference = {"value": result.get("difference"), "low": result.get("low"), "high": result.get("high")}
    if not base or not tuned or tuned.get("value") is None:
        return None
    percent = round(float(value.get("confidence") or 0.95) * 100)
    verdict = _verdict(source, metric, difference)
    return {
        "metric": metric,
        "base": base,
        "tuned": tuned,
        "difference": difference,
        "percent": percent,
        "rows": value.get("rows"),
        "verdict": verdict,
        "words": source.say(f"verdict.{verdict}", percent=percent, **_ends(difference)),
        "about": source.say(f"about.{metric}") if metric in ("chrf", "macro_f1", "field_f1", "exact_match") else "",
        "chart": charts.whiskers(
            source.say("evaluation.chart"),
            [(words.named("metric", str(metric), source.language), span(base), span(tuned))],
            (source.say("base"), source.say("tuned")),
        ),
    }


def _ends(difference: dict[str, Any]) -> dict[str, str]:
    return {"low": words.signed(difference.get("low")), "high": words.signed(difference.get("high"))}


def _score(value: dict[str, Any], model: str, metric: Any) -> dict[str, Any] | None:
    found = ((value.get(model) or {}).get("scores") or {}).get(metric)
    return dict(found) if found else None


def _verdict(source: Source, metric: Any, difference: dict[str, Any]) -> str:
    """better, worse, unsure (the interval holds 0), or unknown (no interval)."""
    low, high = difference.get("low"), difference.get("high")
    if low is None or high is None:
        return "unknown"
    if metric in LOWER_IS_BETTER:
        low, high = -high, -low
    return "better" if low > 0 else "worse" if high < 0 else "unsure"


def span(score: dict[str, Any] | None) -> charts.Span | None:
    """A score of the record as a chart takes it."""
    if not score or score.get("value") is None:
        return None
    return charts.Span(float(score["value"]), score.get("low"), score.get("high"))


def evaluation(source: Source) -> dict[str, Any] | None:
    """All metrics with their intervals, wins and ties, and examples side by side."""
    value = source.value("evaluate")
    if not value:
        return None
    bases, tuned = (value.get("base") or {}).get("scores") or {}, (value.get("tuned") or {}).get("scores") or {}
    names = list(dict.fromkeys([value.get("metric"), *tuned]))
    rows = []
    for name in names:
        if name in tuned:
            change = (value.get("difference") or {}).get(name) or {}
            rows.append({"name": name, "base": bases.get(name) or {}, "tuned": tuned[name], "difference": change})
    chart = charts.whiskers(
        source.say("evaluation.chart"),
        [(words.named("metric", r["name"], source.language), span(r["base"]), span(r["tuned"])) for r in rows],
        (source.say("base"), source.say("tuned")),
    )
    for name in ("distinct_answers", "seconds_per_answer"):
        before, after = ((value.get(model) or {}).get(name) for model in ("base", "tuned"))
        if before is not None and after is not None:
            rows.append({"name": name, "base": {"value": before}, "tuned": {"value": after}, "difference": {}})
    examples = [one | {"prompt": _prompt(source, one.get("prompt"))} for one in (value.get("examples") or [])[:8]]
    opened = value.get("test_opened")
    return {
        "rows": rows,
        "count": value.get("rows"),
        "percent": round(float(value.get("confidence") or 0.95) * 100),
        "wins": value.get("wins"),
        "examples": examples,
        "opened": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(opened))) if opened else "",
        "chart": chart,
    }


def _prompt(source: Source, prompt: Any) -> str:
    """A prompt as text: the question alone, or the whole conversation by role when there was more than one turn."""
    if not isinstance(prompt, list):
        return str(prompt or "")
    turns = [turn for turn in prompt if isinstance(turn, dict) and turn.get("content")]
    spoken = [turn for turn in turns if turn.get("role") != "system"]
    if len(spoken) == 1:
        return str(spoken[0]["content"])
    named = [(words.named("role", str(turn.get("role", "")), source.language), turn["content"]) for turn in spoken]
    return "\n".join(f"{role}: {content}" for role, content in named)


def serving(source: Source) -> dict[str, Any]:
    """Where the model answers, and how fast."""
    deployment = source.value("deploy")
    load = source.value("loadtest")
    levels = load.get("levels") or []
    parallels = [float(level["parallel"]) for level in levels]

    def chart(name: str, *series: tuple[str, str, str]) -> Any:
        lines: list[charts.Series] = []
        for label, group, key in series:
            points = []
            for level in levels:
                found = (level.get(group) or {}).get(key) if key else level.get(group)
                if found is not None:
                    points.append((float(level["parallel"]), float(found)))
            lines.append(charts.Series(label, points, "best" if not lines else "s0"))
        return charts.lines(source.say(f"load.{name}"), lines, height=190, zero=True, x_values=parallels)

    return {
        "deployment": deployment if deployment.get("address") else None,
        "export": source.value("export") or None,
        "levels": levels,
        "complete": load.get("complete", True),
        "why_skipped": load.get("why_skipped", ""),
        "ttft": chart("ttft", ("p50", "ttft_ms", "p50"), ("p90", "ttft_ms", "p90")) if levels else None,
        "tpot": chart("tpot", ("p50", "tpot_ms", "p50"), ("p90", "tpot_ms", "p90")) if levels else None,
        "rate": chart("rate", ("tokens/s", "output_tokens_per_second", "")) if levels else None,
    }


def limits(source: Source) -> list[str]:
    """What the numbers above do not prove, as far as the record shows it."""
    return [*_limits_of_evaluation(source), *_limits_of_training(source), *_limits_of_data(source)]


def _limits_of_evaluation(source: Source) -> list[str]:
    value, found = source.value("evaluate"), []
    if not value:
        return [source.say("limit.no_evaluation")]
    rows = int(value.get("rows") or 0)
    if rows < FEW_TEST_ROWS:
        found.append(source.say("limit.few_test_rows", rows=rows))
    verdict = _verdict(source, value.get("metric"), (value.get("difference") or {}).get(value.get("metric")) or {})
    if verdict in ("unsure", "worse", "unknown"):
        found.append(source.say(f"limit.{verdict}"))
    if value.get("metric") == "chrf":
        found.append(source.say("limit.chrf"))
    if not value.get("guard"):
        found.append(source.say("limit.no_guard"))
    return found


def _limits_of_training(source: Source) -> list[str]:
    found, plan = [], source.plan
    finished = [t for t in source.searched if t.status == "finished"]
    if source.searched and len(source.searched) < FEW_TRIALS:
        found.append(source.say("limit.few_trials", trials=len(source.searched), finished=len(finished)))
    total = (source.value("recount").get("tokens") or {}).get("total")
    if plan is not None and total and not source.task.full and plan.search.final_tokens < total * 0.98:
        share = round(plan.search.final_tokens / float(total) * 100)
        found.append(source.say("limit.part_of_data", share=share))
    if plan is not None and plan.model.source == "packaged":
        found.append(source.say("limit.packaged", model=plan.model.id))
    data_language = (source.value("understand").get("data_profile") or {}).get("language")
    if plan is not None and plan.model.languages and data_language not in (None, "", "mixed", *plan.model.languages):
        language = words.named("word.language", str(data_language), source.language)
        found.append(source.say("limit.language", lang=language, model=plan.model.id))
    return found


def _limits_of_data(source: Source) -> list[str]:
    found = []
    flagged = (source.value("understand").get("data_profile") or {}).get("flagged") or {}
    if flagged.get("pii"):
        found.append(source.say("limit.pii", rows=flagged["pii"]))
    if source.value("loadtest").get("levels"):
        found.append(source.say("limit.load_same_machine"))
    if source.value("loadtest").get("levels") and not source.value("loadtest").get("complete", True):
        found.append(source.say("limit.load_incomplete"))
    reasons = (source.state.get("result") or {}).get("partial_reasons") or []
    return found + [source.say("limit.partial", why=str(why)) for why in reasons]

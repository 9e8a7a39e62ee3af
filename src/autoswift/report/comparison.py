"""The page of a comparison: the verdict in words first, then what it rests on. Self-contained as every page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoswift.report import charts, words
from autoswift.report.build import environment_of
from autoswift.report.outcome import span
from autoswift.run.files import plain, write_atomic
from autoswift.tables import has_text, text

ABOUT = ("answer_tokens", "answer_characters", "nll", "repetition", "refusal")
"""Measures of which more is not better: they stand in the table, not in the chart."""


def comparison(value: Mapping[str, Any], names: tuple[str, str], language: str) -> dict[str, Any]:
    """What the page and the report's section show.

    Args:
        value: of `evaluate.comparison.compare`. names: of the two models. language: `zh` or `en`.
    """
    shown = plain(dict(value))
    scores = [(side.get("scores") or {}) for side in (shown["base"], shown["tuned"])]
    rows = [
        {
            "name": name,
            "base": scores[0].get(name) or {},
            "tuned": one,
            "difference": shown["difference"].get(name) or {},
        }
        for name, one in scores[1].items()
    ]
    rows.sort(key=lambda row: row["name"] != shown["metric"])
    verdict = shown.get("verdict") or {}
    return {
        "names": names,
        "rows": rows,
        "count": shown["rows"],
        "metric": shown["metric"],
        "percent": round(float(shown.get("confidence") or 0.95) * 100),
        "verdict": (verdict.get("words") or {}).get(language, ""),
        "kind": verdict.get("kind", "unknown"),
        "wins": shown.get("wins"),
        "categories": [one | {"by": by(one, language), "name": name_of(one, language)} for one in shown["categories"]],
        "examples": [one | {"prompt": _prompt(one)} for one in shown.get("examples") or []],
        "confusion": shown.get("confusion"),
        "cost": [
            (names[0], shown["base"].get("seconds_per_answer")),
            (names[1], shown["tuned"].get("seconds_per_answer")),
        ],
        "chart": charts.whiskers(
            text("report.evaluation.chart", language),
            [
                (words.named("metric", row["name"], language), span(row["base"]), span(row["tuned"]))
                for row in rows
                if row["name"] not in ABOUT
            ][:4],
            names,
        ),
    }


def by(one: Mapping[str, Any], language: str) -> str:
    """A sort of categories, readable."""
    key = f"evaluate.by.{one['by']}"
    return text(key, language) if has_text(key, language) else str(one["by"])


def name_of(one: Mapping[str, Any], language: str) -> str:
    """A category, readable; labels and subjects as they are."""
    key = f"evaluate.name.{one['name']}"
    known = one["by"] not in ("label", "domain") and has_text(key, language)
    return text(key, language) if known else str(one["name"])


def _prompt(one: Mapping[str, Any]) -> str:
    turns = [m for m in one.get("prompt") or [] if m.get("role") != "system"]
    return "\n".join(str(m.get("content") or "") for m in turns)


def page(value: Mapping[str, Any], names: tuple[str, str], language: str) -> str:
    """The comparison as HTML."""
    shown = comparison(value, names, language)
    return environment_of(language).get_template("comparison.html.j2").render(c=shown)


def write_page(value: Mapping[str, Any], names: tuple[str, str], language: str, path: Path) -> Path:
    """Writes the page; where it lies."""
    target = path.expanduser().resolve()
    write_atomic(target, page(value, names, language))
    return target

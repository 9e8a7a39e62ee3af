"""Benchmarks by EvalScope against a served model, from local folders; its own output is kept, its figures are ours."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from autoswift.errors import InputError, StageFailed
from autoswift.evaluate.intervals import mean_interval
from autoswift.run.files import dumps, read_json, write_atomic
from autoswift.run.places import child_environment, train_python
from autoswift.run.process import Child
from autoswift.tables import explain

CHILD = Path(__file__).parent / "children" / "evalscope_run.py"
CODE = frozenset({"humaneval", "humanevalplus", "mbpp", "mbppplus", "bigcodebench", "live_code_bench", "multipl_e"})
"""Suites whose answers are programs: EvalScope would run them on this machine as they are."""
BY_DOMAIN: dict[str, tuple[str, ...]] = {
    "code": ("humaneval", "mmlu"),
    "math": ("gsm8k", "mmlu"),
    "general": ("mmlu", "cmmlu", "ifeval"),
    "zh": ("ceval", "cmmlu", "ifeval"),
    "en": ("mmlu", "ifeval"),
}
"""What is worth asking by domain, else by language; each needs its folder or a hub."""
LIMIT_SECONDS = 3600.0
"""Of one suite: a whole MMLU on a GPU takes less; on a CPU a limit of rows is what one wants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One benchmark.

    Attributes:
        name: as EvalScope calls it. folder: with its data. subsets: of it; empty takes all that lie there.
        limit: rows a subset; None takes all.
    """

    name: str
    folder: Path
    subsets: tuple[str, ...] = ()
    limit: int | None = None


def suites_for(domain: str, language: str) -> tuple[str, ...]:
    """The names that fit a task."""
    return BY_DOMAIN.get(domain) or BY_DOMAIN.get(language) or BY_DOMAIN["general"]


def rows_for(half_width: float, confidence: float = 0.95, whole: int | None = None) -> int:
    """Rows that give a share an interval of ± `half_width` at worst (p = 0.5), without replacement from `whole`.

    Raises:
        ValueError: when the width is not above 0.
    """
    if half_width <= 0:
        raise ValueError("an interval has a width")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    need = z * z / 4 / half_width**2
    if whole is not None:
        need = need / (1 + (need - 1) / whole)
    return math.ceil(need - 1e-9)


def suite_of(word: str, limit: int | None = None) -> Suite:
    """`NAME=FOLDER` or a folder whose files tell what it is.

    Raises:
        InputError: when the folder is not there, holds no known files, or its answers would be run as programs.
    """
    name, equals, place = word.partition("=")
    folder = Path(place if equals else word).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(*explain("evaluate.no_suite", suite=word))
    if not equals:
        name = "general_mcq" if _fields(folder, ("question", "answer")) else "general_qa"
        if name == "general_qa" and not _fields(folder, ("query", "response")):
            raise InputError(*explain("evaluate.unknown_suite", folder=folder))
    if name in CODE:
        raise InputError(*explain("evaluate.code_suite", suite=name))
    return Suite(name=name, folder=folder, subsets=_subsets(name, folder), limit=limit)


def _fields(folder: Path, names: tuple[str, ...]) -> bool:
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
        try:
            row = json.loads(first)
        except ValueError:
            return False
        return isinstance(row, dict) and set(names) <= set(row)
    return False


def _subsets(name: str, folder: Path) -> tuple[str, ...]:
    if name == "general_mcq":
        return tuple(sorted({p.stem.rpartition("_")[0] for p in folder.glob("*_val.jsonl")}))
    return tuple(sorted(p.stem for p in folder.glob("*.jsonl"))) if name == "general_qa" else ()


def run_suite(address: str, model: str, suite: Suite, out: Path, parallel: int = 1) -> dict[str, Any]:
    """Asks a served model the suite.

    Args:
        address: OpenAI-compatible, ending in /v1. model: its name there.
        out: a folder; EvalScope's files go to `out/<suite>/`.
        parallel: requests at once.

    Returns:
        suite, score (EvalScope's own), rows, low, high (bootstrap over its rows; None where it keeps none), metric,
        subsets [{name, score, rows}], folder, report.

    Raises:
        StageFailed: when EvalScope fails or reports nothing, with the end of its log.
    """
    work = (out / suite.name).resolve()
    shutil.rmtree(work, ignore_errors=True)
    arguments: dict[str, Any] = {"local_path": str(suite.folder), "few_shot_num": 0}
    if suite.subsets:
        arguments["subset_list"] = list(suite.subsets)
    spec = {
        "model": model,
        "api_url": address.rstrip("/"),
        "api_key": "EMPTY",
        "eval_type": "openai_api",
        "datasets": [suite.name],
        "dataset_args": {suite.name: arguments},
        "generation_config": {"temperature": 0.0, "max_tokens": 512},
        "eval_batch_size": parallel,
        "work_dir": str(work),
        "no_timestamp": True,
        "limit": suite.limit,
    }
    write_atomic(out / f"{suite.name}.json", dumps(spec, indent=1))
    log = out / "logs" / f"{suite.name}.log"
    argv = [str(train_python()), "-P", str(CHILD), str(out / f"{suite.name}.json")]
    child = Child(argv, child_environment(1), out, f"evalscope {suite.name}", log)
    try:
        code = child.wait(LIMIT_SECONDS)
    finally:
        child.end()
    if code != 0:
        raise StageFailed(*explain("evaluate.evalscope", suite=suite.name, evidence=child.tail(12), log=log))
    for page in work.rglob("*.html"):  # they load scripts from the network; a run's folder opens nothing from outside
        page.unlink()
    return read_result(work, suite.name)


def read_result(work: Path, name: str) -> dict[str, Any]:
    """What EvalScope reported, with an interval from its own rows.

    Raises:
        StageFailed: when there is no report.
    """
    reports = sorted((work / "reports").rglob(f"{name}.json"))
    if not reports:
        raise StageFailed(*explain("evaluate.no_report", suite=name, folder=work))
    report = read_json(reports[-1])
    metric = report["metrics"][0]
    rows = _row_scores(work, name)
    score = float(metric["score"])
    found: dict[str, Any] = {
        "suite": name,
        "metric": str((metric.get("identity") or {}).get("name") or metric.get("name") or "score"),
        "score": score,
        "rows": int(metric.get("num") or len(rows)),
        "low": None,
        "high": None,
        "subsets": _parts(metric),
        "folder": str(work),
        "report": str(reports[-1]),
    }
    if len(rows) > 1 and abs(sum(rows) / len(rows) - score) < 1e-3:  # else EvalScope weighs its rows in its own way
        interval = mean_interval(rows, resamples=2_000, confidence=0.95, seed=0)
        found |= {"low": interval.low, "high": interval.high}
    return found


def _parts(metric: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": str(one.get("name")), "score": float(one.get("score") or 0.0), "rows": int(one.get("num") or 0)}
        for category in metric.get("categories") or []
        for one in category.get("subsets") or []
    ]


def _row_scores(work: Path, name: str) -> list[float]:
    """The main score of each row in EvalScope's reviews."""
    found = []
    for path in sorted((work / "reviews").rglob(f"{name}_*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            score = (json.loads(line).get("sample_score") or {}).get("score") or {}
            values, main = score.get("value") or {}, score.get("main_score_name")
            value = values.get(main) if main in values else next(iter(values.values()), None)
            if isinstance(value, bool | int | float):
                found.append(float(value))
    return found

"""Load test of a served model by EvalScope, on the run's own prompts: closed loop, streaming, several concurrencies."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypedDict

from autoswift.errors import InputError, StageFailed
from autoswift.run.files import read_json, write_atomic
from autoswift.run.places import child_environment, train_python
from autoswift.run.process import Child
from autoswift.serve.client import Message
from autoswift.tables import explain

MODULE = "evalscope.cli.cli"
LEVEL_OVERHEAD_SECONDS = 10.0
"""What EvalScope takes besides the requests: 3.5 s of imports on an idle CPU, more on a busy one. A level that has
less left than this is not begun."""
PERCENTILES = {"p50": "50%", "p90": "90%", "p99": "99%"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """How the load is made.

    Attributes:
        parallel: requests kept under way, one level each.
        requests: of each level, as many as `parallel` has.
        max_tokens: longest answer.
        python: interpreter of the training environment; empty finds it.
        threads: of EvalScope's own numeric libraries.
        deadline: Unix seconds at which the test ends with what it has; None has no bound.
    """

    parallel: tuple[int, ...]
    requests: tuple[int, ...]
    max_tokens: int
    python: str = ""
    threads: int = 1
    deadline: float | None = None


class Spread(TypedDict):
    """A distribution in milliseconds; None where nothing succeeded."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None


class Level(TypedDict):
    """One concurrency. `ttft_ms`: until the first token; `tpot_ms`: each further token; `latency_ms`: whole answer."""

    parallel: int
    requests: int
    succeeded: int
    failed: int
    seconds: float
    requests_per_second: float
    output_tokens_per_second: float
    ttft_ms: Spread
    tpot_ms: Spread
    latency_ms: Spread


class LoadReport(TypedDict):
    """All levels that finished; `complete` is False when the deadline left some out."""

    levels: list[Level]
    complete: bool
    seconds: float
    max_tokens: int
    distinct_prompts: int


def load_test(
    run_folder: Path,
    address: str,
    model_name: str,
    tokenizer_dir: Path | None,
    prompts: Sequence[Sequence[Message]],
    settings: LoadSettings,
) -> LoadReport:
    """Measures throughput and latency at each concurrency.

    Each level starts where the one before it stopped in the list of prompts, so that with enough prompts no answer
    profits from a prompt the server still has in its cache.

    Args:
        run_folder: EvalScope's files go to serve/loadtest/ in it, its log to logs/loadtest.log.
        address: ending in /v1.
        model_name: as it is served.
        tokenizer_dir: counts tokens for a server that does not report them; None where it does (ours do), which
            saves loading it.
        prompts: conversations that end with the user's turn.
        settings: concurrencies, requests of each, longest answer, deadline.

    Raises:
        InputError: when there are no prompts, or the lists of levels differ in length.
        StageFailed: when EvalScope fails, or every request of a level failed, with the end of its log.
    """
    if not prompts:
        raise InputError(*explain("loadtest.no_prompts"))
    if len(settings.parallel) != len(settings.requests):
        raise InputError(*explain("loadtest.lengths", levels=len(settings.parallel), counts=len(settings.requests)))
    folder = run_folder.resolve() / "serve" / "loadtest"
    shutil.rmtree(folder, ignore_errors=True)
    begin, used, levels, complete = time.monotonic(), 0, [], True
    for parallel, requests in zip(settings.parallel, settings.requests, strict=True):
        if _left(settings) < LEVEL_OVERHEAD_SECONDS:
            complete = False
            break
        rows = list(islice(cycle(prompts), used, used + requests))
        used += requests
        argv = _argv(folder, address, model_name, rows, parallel, settings)
        if tokenizer_dir is not None:
            argv += ["--tokenizer-path", str(tokenizer_dir)]
        if not _run(run_folder.resolve(), argv, settings):
            complete = False
            break
        levels.append(_level(run_folder, folder / _name(parallel, requests)))
    return {
        "levels": levels,
        "complete": complete,
        "seconds": round(time.monotonic() - begin, 3),
        "max_tokens": settings.max_tokens,
        "distinct_prompts": len({json.dumps(list(map(dict, row)), sort_keys=True) for row in prompts}),
    }


def _left(settings: LoadSettings) -> float:
    return float("inf") if settings.deadline is None else settings.deadline - time.time()


def _name(parallel: int, requests: int) -> str:
    """The folder that EvalScope makes for a level."""
    return f"parallel_{parallel}_number_{requests}"


def _argv(
    folder: Path, address: str, model_name: str, rows: list[Sequence[Message]], parallel: int, settings: LoadSettings
) -> list[str]:
    """EvalScope's command for one level; writes its prompts, one JSON array of messages a line."""
    data = folder / f"prompts_{parallel}.jsonl"
    # ASCII only: no character inside a prompt can be taken for the end of a line
    write_atomic(data, "".join(json.dumps(list(map(dict, row))) + "\n" for row in rows))
    options: dict[str, Any] = {
        "--url": address.rstrip("/") + "/chat/completions",
        "--model": model_name,
        "--api": "openai",
        "--api-key": "EMPTY",
        "--dataset": "line_by_line",
        "--dataset-path": data,
        "--parallel": parallel,
        "--number": len(rows),
        "--max-tokens": settings.max_tokens,
        "--temperature": 0.0,
        # A connection of its own for each request: llama.cpp closes kept ones by itself, and a request that is sent at
        # that moment would count as the server's failure (seen once in some twenty runs). 0.1 ms on loopback.
        "--headers": "Connection=close",
        "--outputs-dir": folder.parent,
        "--name": folder.name,
    }
    python = settings.python or str(train_python())
    argv = [python, "-P", "-m", MODULE, "perf", *(str(part) for pair in options.items() for part in pair)]
    # The test request would put the first prompt into the server's cache before it is measured.
    return [*argv, "--stream", "--no-timestamp", "--no-test-connection"]


def _run(run_folder: Path, argv: list[str], settings: LoadSettings) -> bool:
    """Runs one level; False when the deadline ended it.

    Raises:
        StageFailed: when EvalScope ends with an error.
    """
    log = run_folder / "logs" / "loadtest.log"
    child = Child(argv, child_environment(settings.threads), run_folder, "loadtest", log)
    try:
        left = _left(settings)
        code = child.wait(None if left == float("inf") else max(0.0, left))
    finally:
        child.end()
    if code is None:
        return False
    if code != 0:
        raise StageFailed(*explain("loadtest.code", code=code, evidence=child.tail(15)))
    return True


def _level(run_folder: Path, folder: Path) -> Level:
    """One level from EvalScope's files.

    Raises:
        StageFailed: when they are missing or no request succeeded.
    """
    # Its page loads a script from the network; a run's folder opens nothing from outside. The figures stay.
    (folder.parent / "perf_report.html").unlink(missing_ok=True)
    log = run_folder / "logs" / "loadtest.log"
    try:
        summary = read_json(folder / "benchmark_summary.json")
        percentiles = {str(row["Percentiles"]): row for row in read_json(folder / "benchmark_percentile.json")}
    except FileNotFoundError as exc:
        from autoswift.run.process import log_tail

        raise StageFailed(*explain("loadtest.no_result", evidence=log_tail(log, 15))) from exc
    if not summary["Success Requests"]:
        raise StageFailed(*explain("loadtest.all_failed", requests=summary["Total Requests"]))
    return {
        "parallel": int(summary["Concurrency"]),
        "requests": int(summary["Total Requests"]),
        "succeeded": int(summary["Success Requests"]),
        "failed": int(summary["Failed Requests"]),
        "seconds": float(summary["Test Duration (s)"]),
        "requests_per_second": float(summary["Req Throughput (req/s)"]),
        "output_tokens_per_second": float(summary["Output Throughput (tok/s)"]),
        "ttft_ms": _spread(summary.get("Avg TTFT (ms)"), percentiles, "TTFT (ms)", 1.0),
        "tpot_ms": _spread(summary.get("Avg TPOT (ms)"), percentiles, "TPOT (ms)", 1.0),
        "latency_ms": _spread(summary.get("Avg Latency (s)"), percentiles, "Latency (s)", 1000.0),
    }


def _spread(mean: Any, percentiles: dict[str, Any], name: str, scale: float) -> Spread:
    def scaled(value: Any) -> float | None:
        return round(float(value) * scale, 3) if isinstance(value, int | float) and value == value else None

    at = {key: scaled(percentiles.get(row, {}).get(name)) for key, row in PERCENTILES.items()}
    return {"mean": scaled(mean), "p50": at["p50"], "p90": at["p90"], "p99": at["p99"]}

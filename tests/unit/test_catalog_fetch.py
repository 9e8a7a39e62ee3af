from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoswift.catalog import availability as available
from autoswift.catalog import cached, net, policy
from autoswift.catalog import fetch as fetching
from autoswift.catalog.fetch import COPIED_BELOW, fetch, is_safe
from autoswift.catalog.lockfile import check_and_record, lock_path, locked_files
from autoswift.domain.plan import ModelChoice
from autoswift.errors import DiskFull, HubUnreachable, ModelError
from autoswift.testing.model_hub import ModelHub
from unit.catalog_folders import model, safetensors


def choice(source: str, location: str) -> ModelChoice:
    return ModelChoice(
        id="tiny", source=source, location=location, model_type="llama", template="chatml", parameters=264
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def online(tmp_path, monkeypatch) -> Iterator[ModelHub]:
    """A hub on this machine that has owner/tiny, whose configuration and files lead to code; the policy allows it."""
    folder = model(tmp_path / "remote", {"auto_map": {"AutoModel": "evil/repo--x.X"}})
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(net, "pause", lambda seconds, cancel: None)
    policy.policy_path().write_text("rules: [{action: allow, org: owner}]")
    with ModelHub() as made:
        made.publish("owner/tiny", folder)
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


STAGED = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


UNSAFE = "m.py pytorch_model.bin x.pt x.pkl a/model.safetensors .gitattributes model.gguf x.sh adapter_x.safetensors"
NEEDED = "model-00001-of-00002.safetensors config.json merges.txt tokenizer.model chat_template.jinja LICENSE.txt"


@pytest.mark.parametrize("name", UNSAFE.split())
def test_unsafe_and_foreign_names_are_never_staged(name):
    assert not is_safe(name)


@pytest.mark.parametrize("name", NEEDED.split())
def test_what_a_model_needs_is_staged(name):
    assert is_safe(name)


def test_a_folder_is_staged_without_code(tmp_path):
    origin = model(tmp_path / "origin", {"auto_map": {"AutoModel": "evil/repo--x.X"}, "text": {"auto_map": {}}})
    for name in ("modeling.py", "training_args.bin", "weights.pkl", "adapter_model.safetensors"):
        (origin / name).write_bytes(b"x")
    told = []
    folder, hashes = fetch(choice("folder", str(origin)), tmp_path / "run" / "base", lambda *a: told.append(a))
    assert {path.name for path in folder.iterdir()} == STAGED == set(hashes)
    assert "auto_map" not in (folder / "config.json").read_text()
    assert json.loads((origin / "config.json").read_text())["auto_map"]  # the original stays as it is
    assert all(sha256(folder / name) == digest for name, digest in hashes.items())
    assert told[-1][1] == told[-1][2] > 0


def test_large_weights_are_linked_and_small_files_copied(tmp_path):
    origin = model(tmp_path / "origin")
    safetensors(origin / "model.safetensors", {"model.w": (COPIED_BELOW // 4 + 1,)})
    folder, _ = fetch(choice("folder", str(origin)), tmp_path / "base")
    assert (folder / "model.safetensors").samefile(origin / "model.safetensors")
    assert not (folder / "model.safetensors").is_symlink()
    assert not (folder / "config.json").samefile(origin / "config.json")


def test_without_hard_links_weights_are_copied(tmp_path, monkeypatch):
    origin = model(tmp_path / "origin")
    safetensors(origin / "model.safetensors", {"model.w": (COPIED_BELOW // 4 + 1,)})

    def no_links(*_: object) -> None:
        raise OSError(18, "cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    folder, hashes = fetch(choice("folder", str(origin)), tmp_path / "base")
    assert sha256(folder / "model.safetensors") == hashes["model.safetensors"]
    assert not (folder / "model.safetensors").samefile(origin / "model.safetensors")


def test_a_changed_byte_is_refused_at_the_next_use(tmp_path):
    origin = model(tmp_path / "origin")
    fetch(choice("folder", str(origin)), tmp_path / "one")
    content = bytearray((origin / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (origin / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors") as caught:
        fetch(choice("folder", str(origin)), tmp_path / "two")
    assert str(lock_path()) in caught.value.fix
    assert not (tmp_path / "two").exists()


def test_staging_again_replaces_what_was_there(tmp_path):
    origin = model(tmp_path / "origin")
    into = tmp_path / "base"
    into.mkdir()
    (into / "left over").write_text("x")
    fetch(choice("folder", str(origin)), into)
    assert {path.name for path in into.iterdir()} == STAGED


def test_a_failure_leaves_nothing_half_made(tmp_path, monkeypatch):
    origin = model(tmp_path / "origin")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching.shutil, "copyfile", full)
    with pytest.raises(DiskFull):
        fetch(choice("folder", str(origin)), tmp_path / "run" / "base")
    assert list((tmp_path / "run").iterdir()) == []


def test_room_is_asked_for_before_anything_is_written(tmp_path, monkeypatch):
    origin = model(tmp_path / "origin")
    monkeypatch.setattr(cached, "MARGIN", 2**60)
    with pytest.raises(DiskFull, match="the model needs"):
        fetch(choice("folder", str(origin)), tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_a_hub_gives_the_safe_files_only_and_is_asked_once(online, tmp_path, source):
    _, hashes = fetch(choice(source, "owner/tiny"), tmp_path / "one")
    assert set(hashes) == STAGED
    assert not [one.path for one in online.requests if one.path.endswith((".py", ".bin"))]
    assert locked_files(source, "owner/tiny").keys() == STAGED
    online.requests.clear()
    fetch(choice(source, "owner/tiny"), tmp_path / "two")
    assert online.requests == []


def test_offline_says_so_without_asking(online, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachable, match="may not be asked"):
        fetch(choice("huggingface", "owner/tiny"), tmp_path / "base")
    assert online.requests == []
    assert not available.availability(0.5).huggingface


def test_which_hubs_answer(online, monkeypatch):
    found = available.availability(1.0)
    assert found.huggingface  # any answer counts, also "method not allowed"
    assert found.modelscope
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not available.availability(1.0).huggingface


def test_the_packaged_model_is_looked_for_without_importing_anything(tmp_path, monkeypatch):
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv("AUTOSWIFT_TRAIN_PYTHON", str(python))
    site = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / available.PACKAGE
    site.mkdir(parents=True)
    assert available.packaged_weights() is None
    (site / available.WEIGHTS).write_bytes(b"GGUF")
    assert available.packaged_weights() == site / available.WEIGHTS
    monkeypatch.setenv("AUTOSWIFT_TRAIN_PYTHON", str(tmp_path / "nothing"))
    assert available.packaged_weights() is None


def test_the_lock_keeps_what_it_knows_and_adds_what_is_new():
    check_and_record("folder", "/m", {"a": "1"})
    check_and_record("folder", "/m", {"b": "2"})
    assert locked_files("folder", "/m") == {"a": "1", "b": "2"}
    with pytest.raises(ModelError, match="b of /m"):
        check_and_record("folder", "/m", {"a": "1", "b": "3"})
    assert locked_files("folder", "/other") == {}

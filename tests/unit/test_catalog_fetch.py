from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from autoswift.catalog import availability as available
from autoswift.catalog import fetch as fetching
from autoswift.catalog import hub
from autoswift.catalog.fetch import COPIED_BELOW, fetch, is_safe
from autoswift.catalog.lockfile import check_and_record, lock_path, locked_files
from autoswift.domain.plan import ModelChoice
from autoswift.errors import DiskFull, HubUnreachable, ModelError
from unit.catalog_folders import model, safetensors


def choice(source: str, location: str) -> ModelChoice:
    return ModelChoice(
        id="tiny", source=source, location=location, model_type="llama", template="chatml", parameters=264
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """Both hubs' interfaces over one folder. `server.break_after` cuts answers short, `server.lie` changes hashes."""

    def do_HEAD(self) -> None:
        self.send_response(405)
        self.end_headers()

    def do_GET(self) -> None:
        folder: Path = self.server.folder
        self.server.asked.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        name = self.path.partition("?")[0].rpartition("/")[2]
        if self.server.status:
            self.send_response(self.server.status)
            self.end_headers()
        elif self.path.startswith("/api/models/"):
            rows = [self._hf(path) for path in sorted(folder.iterdir())]
            self._json({"sha": "c0ffee", "siblings": rows})
        elif self.path.startswith("/api/v1/models/"):
            rows = [
                {"Path": p.name, "Size": p.stat().st_size, "Sha256": sha256(p), "Type": "blob", "Revision": "r1"}
                for p in sorted(folder.iterdir())
            ]
            self._json({"Code": 200, "Data": {"Files": rows}})
        else:
            self._file(folder / name)

    def _hf(self, path: Path) -> dict[str, object]:
        row: dict[str, object] = {"rfilename": path.name, "size": path.stat().st_size}
        if path.suffix == ".safetensors":
            row["lfs"] = {"sha256": "0" * 64 if self.server.lie else sha256(path), "size": path.stat().st_size}
        return row

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, path: Path) -> None:
        content = path.read_bytes()
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        end = len(content)
        if self.server.break_after and path.suffix == ".safetensors":
            end = min(end, begin + self.server.break_after)
        self.wfile.write(content[begin:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def online(tmp_path, monkeypatch) -> Iterator[ThreadingHTTPServer]:
    """A hub on this machine."""
    folder = model(tmp_path / "remote", {"auto_map": {"AutoModel": "evil/repo--x.X"}})
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked, server.break_after, server.lie, server.status = folder, [], 0, False, 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(hub.time, "sleep", lambda seconds: None)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


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
    monkeypatch.setattr(fetching, "MARGIN", 2**60)
    with pytest.raises(DiskFull, match="the model needs"):
        fetch(choice("folder", str(origin)), tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_a_hub_gives_the_safe_files_only_and_is_asked_once(online, tmp_path, source):
    _, hashes = fetch(choice(source, "owner/tiny"), tmp_path / "one")
    assert set(hashes) == STAGED
    paths = [path for path, _, _ in online.asked]
    assert not [path for path in paths if path.endswith((".py", ".bin"))]
    assert locked_files(source, "owner/tiny").keys() == STAGED
    online.asked.clear()
    fetch(choice(source, "owner/tiny"), tmp_path / "two")
    assert online.asked == []


def test_a_download_that_breaks_off_is_continued(online, tmp_path):
    online.break_after = 500  # the file has more than 1000 bytes: three pieces
    folder, _ = fetch(choice("huggingface", "owner/tiny"), tmp_path / "base")
    assert sha256(folder / "model.safetensors") == sha256(online.folder / "model.safetensors")
    assert [r for path, r, _ in online.asked if path.endswith("model.safetensors")][:2] == [None, "bytes=500-"]


def test_a_hub_that_always_breaks_off_is_a_passing_error_and_keeps_what_came(online, tmp_path):
    online.break_after = 100
    with pytest.raises(HubUnreachable) as caught:
        fetch(choice("huggingface", "owner/tiny"), tmp_path / "base")
    assert caught.value.transient
    online.break_after = 0
    online.asked.clear()
    fetch(choice("huggingface", "owner/tiny"), tmp_path / "base")
    assert "bytes=400-" in [r for _, r, _ in online.asked]


def test_a_file_that_is_not_what_the_hub_announced_is_refused(online, tmp_path):
    online.lie = True
    with pytest.raises(ModelError, match="arrived damaged"):
        fetch(choice("huggingface", "owner/tiny"), tmp_path / "base")
    assert not list((lock_path().parent / "cache" / "models" / "huggingface--owner--tiny").glob("*.safetensors*"))


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [(401, ModelError, "licence"), (404, ModelError, "has no"), (503, HubUnreachable, "did not answer")],
)
def test_a_hubs_refusal_is_explained(online, tmp_path, status, error, words):
    online.status = status
    with pytest.raises(error) as caught:
        fetch(choice("huggingface", "owner/tiny"), tmp_path / "base")
    assert words in caught.value.what + caught.value.why
    assert len(online.asked) == (hub.ATTEMPTS if status == 503 else 1)


def test_the_token_goes_to_its_hub_only(online, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    fetch(choice("huggingface", "owner/tiny"), tmp_path / "one")
    assert {token for _, _, token in online.asked} == {"Bearer secret"}
    online.asked.clear()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    fetch(choice("modelscope", "owner/tiny"), tmp_path / "two")
    assert {token for _, _, token in online.asked} == {None}


def test_offline_says_so_without_asking(online, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachable, match="may not be asked"):
        fetch(choice("huggingface", "owner/tiny"), tmp_path / "base")
    assert online.asked == []
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

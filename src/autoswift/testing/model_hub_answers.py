"""How the model hub for tests answers: its list of files in both protocols, and files, well or badly."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from autoswift.testing.model_hub import ModelHub

LFS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".model", ".gguf")
"""Kept outside of git: announced by SHA-256 and served by the content network."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as it came."""

    method: str
    path: str
    host: str
    range: str
    authorization: str


def changed(raw: bytes, at: int = -1) -> bytes:
    """The same with one byte another."""
    content = bytearray(raw)
    content[at] ^= 1
    return bytes(content)


@lru_cache(maxsize=256)
def sha256(raw: bytes) -> str:
    """A content's SHA-256, computed once."""
    return hashlib.sha256(raw).hexdigest()


@lru_cache(maxsize=256)
def git_sha1(raw: bytes) -> str:
    """Git's name of a content."""
    return hashlib.sha1(f"blob {len(raw)}\0".encode() + raw, usedforsecurity=False).hexdigest()


class Answering(BaseHTTPRequestHandler):
    """What hub and content network have in common: sending a file, well or badly."""

    hub: ModelHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Notes the request, then answers it."""
        authorization = self.headers.get("Authorization") or ""
        host = self.headers.get("Host") or ""
        asked = Asked(self.command, self.path, host, self.headers.get("Range") or "", authorization)
        self.hub.requests.append(asked)
        self.answer(urlsplit(self.path).path, parse_qs(urlsplit(self.path).query))

    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        """Answers a request."""
        raise NotImplementedError

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, value: object, status: int = 200) -> None:
        """An answer of JSON."""
        self.reply(status, json.dumps(value).encode(), Content_Type="application/json")

    def refused(self, name: str) -> bool:
        """Whether a fault answers in place of the file."""
        if fault := self.hub.strikes("status", name):
            self.reply(int(fault.value), Retry_After="0")
        elif fault := self.hub.strikes("redirect", name):
            self.reply(302, Location=fault.target)
        elif self.hub.strikes("loop", name):
            self.reply(302, Location=self.path)
        else:
            return False
        return True

    def send_file(self, name: str, raw: bytes, etag: str, commit: str = "") -> None:
        """A file or a part of it, with the faults that apply."""
        if fault := self.hub.strikes("changed", name):
            raw = changed(raw, int(fault.value) if fault.value != 1 else -1)
        begin, end = self._part(name, len(raw))
        if begin >= len(raw):
            self.reply(416)
            return
        body, part = raw[begin:end], (begin, end) != (0, len(raw))
        if part and (fault := self.hub.strikes("wrong_range", name)):
            body = raw[begin - int(fault.value) : end - int(fault.value)]
        if self.hub.strikes("endless", name):
            body += bytes(2**16)
        promised = len(body)
        if fault := self.hub.strikes("short_length", name):
            promised, body = promised - int(fault.value), body[: -int(fault.value)]
        elif fault := self.hub.strikes("long_length", name):
            promised += int(fault.value)
        headers = {"Content-Length": str(promised), "ETag": f'"{etag}"', "X-Repo-Commit": commit}
        if part:
            headers["Content-Range"] = f"bytes {begin}-{begin + len(body) - 1}/{len(raw)}"
        self.send_response(206 if part else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self._body(name, body, promised)

    def _part(self, name: str, total: int) -> tuple[int, int]:
        """What is asked for, as first byte and the one behind the last."""
        wanted = (self.headers.get("Range") or "").removeprefix("bytes=")
        if not wanted or self.hub.strikes("no_range", name):
            return 0, total
        first, _, last = wanted.partition("-")
        return int(first), min(int(last) + 1, total) if last else total

    def _body(self, name: str, body: bytes, promised: int) -> None:
        try:
            if fault := self.hub.strikes("truncated", name):
                self.wfile.write(body[: int(fault.value)])
                self.close_connection = True
            elif fault := self.hub.strikes("stalled", name):
                self.wfile.write(body[: int(fault.value)])
                self.wfile.flush()
                self.hub.stopping.wait(60.0)
                self.close_connection = True
            elif fault := self.hub.strikes("slow", name):
                for at in range(0, len(body), 64):
                    self.wfile.write(body[at : at + 64])
                    self.wfile.flush()
                    time.sleep(fault.value)
            else:
                self.wfile.write(body)
                self.close_connection = promised != len(body)
        except OSError:
            self.close_connection = True  # the other side gave up

    def log_message(self, *_: object) -> None:
        """Silent."""


class Network(Answering):
    """The content network: a file by model, revision and name; it asks for no token."""

    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        """Answers a request."""
        owner, model, revision, name = unquote(path).strip("/").split("/", 3)
        found = self.hub.files_of(f"{owner}/{model}", revision)
        if found is None or name not in found[1]:
            self.reply(404)
        elif not self.refused(name):
            self.send_file(name, found[1][name], sha256(found[1][name]))


class Hub(Answering):
    """Both hubs' own interfaces."""

    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        """Answers a request."""
        parts = unquote(path).strip("/").split("/")
        if path == "/":
            self.reply(200)
        elif self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.reply(401)
        elif parts[:2] == ["api", "models"] and parts[4:5] == ["tree"]:
            self._tree("/".join(parts[2:4]), parts[5])
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            revision = parts[5] if parts[4:5] == ["revision"] else "main"
            self._list_huggingface("/".join(parts[2:4]), revision, blobs="blobs" in query)
        elif parts[:3] == ["api", "v1", "models"] and parts[5:] == ["repo", "files"]:
            self._list_modelscope("/".join(parts[3:5]), query.get("Revision", ["master"])[0])
        elif parts[:3] == ["api", "v1", "models"] and parts[5:] == ["repo"]:
            name, revision = query.get("FilePath", [""])[0], query.get("Revision", ["master"])[0]
            self._file("/".join(parts[3:5]), revision, name)
        elif parts[0] == "models" and parts[3:4] == ["resolve"]:
            self._file("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        elif parts[2:3] == ["resolve"]:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.reply(404)

    def _list_huggingface(self, model_id: str, revision: str, *, blobs: bool) -> None:
        found = self.hub.files_of(model_id, revision)
        if found is None:
            self.reply(404)
        elif not self.refused("list"):
            rows = [self._huggingface_row(name, raw, blobs) for name, raw in sorted(found[1].items())]
            self.reply_json({"id": model_id, "sha": found[0], "siblings": rows})
            self._move(model_id)

    def _huggingface_row(self, name: str, raw: bytes, blobs: bool) -> dict[str, Any]:
        row: dict[str, Any] = {"rfilename": name}
        if blobs:
            row["size"] = len(raw)
        if not blobs or self.hub.strikes("unhashed", name):
            return row
        told = changed(raw) if self.hub.strikes("lying", name) else raw
        row["blobId"] = git_sha1(told)
        if name.endswith(LFS):
            row["lfs"] = {"sha256": sha256(told), "size": len(raw), "pointerSize": 135}
        return row

    def _tree(self, model_id: str, revision: str) -> None:
        """The other list of Hugging Face, which its own client reads."""
        found = self.hub.files_of(model_id, revision)
        if found is None:
            self.reply(404)
            return
        rows = []
        for name, raw in sorted(found[1].items()):
            row: dict[str, Any] = {"type": "file", "path": name, "size": len(raw), "oid": git_sha1(raw)}
            if name.endswith(LFS):
                row["lfs"] = {"oid": sha256(raw), "size": len(raw), "pointerSize": 135}
            rows.append(row)
        self.reply_json(rows)

    def _list_modelscope(self, model_id: str, revision: str) -> None:
        found = self.hub.files_of(model_id, revision)
        if found is None:
            self.reply_json({"Code": 10010205001, "Message": "record not found", "Success": False}, 404)
            return
        if self.refused("list"):
            return
        rows = []
        for name, raw in sorted(found[1].items()):
            row = {"Name": name.rpartition("/")[2], "Path": name, "Type": "blob", "Size": len(raw), "Mode": "100644"}
            row |= {"Revision": found[0], "CommittedDate": 1_700_000_000, "IsLFS": name.endswith(LFS)}
            if not self.hub.strikes("unhashed", name):
                told = changed(raw) if self.hub.strikes("lying", name) else raw
                row["Sha256"] = sha256(told)
            rows.append(row)
        self.reply_json({"Code": 200, "Success": True, "Data": {"Files": rows}})
        self._move(model_id)

    def _move(self, model_id: str) -> None:
        if fault := self.hub.strikes("moving", "list"):
            self.hub.move(model_id, fault.target)

    def _file(self, model_id: str, revision: str, name: str) -> None:
        found = self.hub.files_of(model_id, revision)
        if found is None or name not in found[1]:
            self.reply(404)
            return
        raw, own = found[1][name], f"/{model_id}/{found[0]}/{name}"
        headers = {"X_Repo_Commit": found[0]}
        if not self.hub.strikes("unhashed", name):
            headers |= {"X_Linked_Size": str(len(raw)), "X_Linked_ETag": f'"{self._etag(name, raw)}"'}
        if name.endswith(LFS):
            self.reply(302, b"", Location=self.hub.network + own, **headers)
        elif not self.refused(name):
            self.send_file(name, raw, self._etag(name, raw) if "X_Linked_ETag" in headers else "weak", found[0])

    def _etag(self, name: str, raw: bytes) -> str:
        return sha256(raw) if name.endswith(LFS) else git_sha1(raw)

"""Both hubs' interfaces for data sets on this machine: search, card, files with redirects, ranges and hashes.

`with FakeHub(shelf()) as hub:` (testing/shelf.py) and set `hub.environment()`: what asks Hugging Face or ModelScope
then asks here. The attributes `lie`, `break_after` and `failing` make it misbehave.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_FROM = 1000
"""Bytes from which a file is kept apart, with a SHA-256 and behind a redirect; smaller ones have git's hash only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeDataset:
    """A data set on the shelf; `on` names the hubs that have it."""

    id: str
    files: Mapping[str, bytes]
    title: str = ""
    description: str = ""
    licence: str = ""
    languages: Sequence[str] = ()
    tags: Sequence[str] = ()
    rows: int = 0
    downloads: int = 0
    gated: bool = False
    configs: Sequence[Mapping[str, Any]] = ()
    on: Sequence[str] = ("huggingface", "modelscope")

    @property
    def revision(self) -> str:
        """As git would name it: by its content."""
        whole = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(self.files.items()):
            whole.update(name.encode() + content)
        return whole.hexdigest()


@dataclass
class FakeHub:
    """A server with data sets.

    Attributes:
        datasets: what it offers.
        asked: every request line with its Range and Authorization, in order.
        lie: announces hashes that are none of the files'. break_after: bytes after which an answer breaks off, once.
        failing: statuses that the next requests get instead of an answer.
    """

    datasets: Sequence[FakeDataset]
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    lie: bool = False
    break_after: int = 0
    failing: list[int] = field(default_factory=list)

    def __enter__(self) -> FakeHub:
        """Starts to listen."""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """http://127.0.0.1:port."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, hubs: Sequence[str] = ("huggingface", "modelscope")) -> dict[str, str]:
        """Variables that send what asks a hub here; a hub that is not named gets an address where nobody listens."""
        names = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}
        nowhere = "http://127.0.0.1:9"  # the discard port: nobody listens
        return {variable: self.address if hub in hubs else nowhere for hub, variable in names.items()}

    def find(self, dataset_id: str, hub: str) -> FakeDataset | None:
        """The data set with that id on that hub."""
        return next((d for d in self.datasets if d.id.lower() == dataset_id.lower() and hub in d.on), None)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients break off, and tests are about what they make of it."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: else each answer waits 40 ms for an acknowledgement

    @property
    def hub(self) -> FakeHub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def do_HEAD(self) -> None:
        self._answer(200, b"", {})

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append((self.path, self.headers.get("Range") or "", self.headers.get("Authorization") or ""))
        if hub.failing:
            self._json({"error": "failing"}, hub.failing.pop(0))
            return
        parts = urlsplit(self.path)
        path, query = parts.path, {key: values[0] for key, values in parse_qs(parts.query).items()}
        for pattern, method in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match:
                getattr(self, method)(*(unquote(group) for group in match.groups()), query=query)
                return
        self._json({"error": "no such path"}, 404)

    def hf_search(self, *, query: Mapping[str, str]) -> None:
        """Hugging Face looks for the word in names."""
        word = query.get("search", "").lower()
        hits = [d for d in self.hub.datasets if "huggingface" in d.on and word in d.id.lower()]
        hits.sort(key=lambda d: -d.downloads)
        self._json([self._hf(d, blobs=False) for d in hits[: int(query.get("limit", 100))]])

    def hf_card(self, dataset_id: str, *, query: Mapping[str, str]) -> None:
        found = self.hub.find(dataset_id, "huggingface")
        self._json(*((self._hf(found, blobs="blobs" in query), 200) if found else ({"error": "not found"}, 404)))

    def hf_revision(self, dataset_id: str, revision: str, *, query: Mapping[str, str]) -> None:
        """The branch of converted copies is there where the data set has files below `converted/`."""
        found = self.hub.find(dataset_id, "huggingface")
        files = [name for name in found.files if name.startswith("converted/")] if found else []
        if not found or not files or revision != "refs/convert/parquet":
            self._json({"error": "no such revision"}, 404)
            return
        rows = [self._hf_file(found, name, blobs=True) | {"rfilename": name} for name in files]
        self._json({"id": found.id, "sha": found.revision, "siblings": rows})

    def hf_file(self, dataset_id: str, revision: str, name: str, *, query: Mapping[str, str]) -> None:
        self._file(dataset_id, name, "huggingface")

    def ms_search(self, *, query: Mapping[str, str]) -> None:
        """ModelScope looks in titles and descriptions too."""
        word = query.get("search", "").lower()
        hits = [
            d for d in self.hub.datasets
            if "modelscope" in d.on and word in f"{d.id} {d.title} {d.description}".lower()
        ]  # fmt: skip
        first = (int(query.get("page_number", 1)) - 1) * int(query.get("page_size", 10))
        page = hits[first : first + int(query.get("page_size", 10))]
        self._json({"success": True, "data": {"datasets": [self._ms(d) for d in page], "total_count": len(hits)}})

    def ms_card(self, dataset_id: str, *, query: Mapping[str, str]) -> None:
        found = self.hub.find(dataset_id, "modelscope")
        self._json(*(({"success": True, "data": self._ms(found)}, 200) if found else ({"success": False}, 404)))

    def ms_tree(self, dataset_id: str, *, query: Mapping[str, str]) -> None:
        found = self.hub.find(dataset_id, "modelscope")
        names = sorted(name for name in found.files if not name.startswith("converted/")) if found else []
        page, size = int(query.get("PageNumber", 1)), int(query.get("PageSize", 50))
        rows = [
            {"Path": n, "Name": n.rpartition("/")[2], "Type": "blob", "Size": len(found.files[n]),
             "Sha256": self._sha256(found.files[n]), "Revision": found.revision}
            for n in names[(page - 1) * size : page * size]
            if found
        ]  # fmt: skip
        self._json({"Code": 200, "Success": True, "Data": {"Files": rows, "TotalCount": len(names)}})

    def ms_file(self, dataset_id: str, *, query: Mapping[str, str]) -> None:
        self._file(dataset_id, query.get("FilePath", ""), "modelscope")

    def cdn(self, dataset_id: str, name: str, *, query: Mapping[str, str]) -> None:
        """Where large files are: another place, behind a redirect."""
        found = next((d for d in self.hub.datasets if d.id == dataset_id), None)
        content = found.files.get(name) if found else None
        if content is None:
            self._json({"error": "no such file"}, 404)
            return
        self._content(content)

    def _file(self, dataset_id: str, name: str, hub: str) -> None:
        found = self.hub.find(dataset_id, hub)
        content = found.files.get(name) if found else None
        if found is None or content is None:
            self._json({"error": "no such file"}, 404)
        elif len(content) >= LFS_FROM:
            self._answer(302, b"", {"Location": f"{self.hub.address}/cdn/{quote(found.id)}/-/{quote(name)}"})
        else:
            self._content(content)

    def _hf(self, found: FakeDataset, *, blobs: bool) -> dict[str, Any]:
        head: dict[str, Any] = {"pretty_name": found.title, "language": list(found.languages)}
        head |= {"license": found.licence} if found.licence else {}
        head |= {"configs": list(found.configs)} if found.configs else {}
        if found.rows:
            head["dataset_info"] = {"splits": [{"name": "train", "num_examples": found.rows}]}
        tags = [*found.tags, *(f"language:{code}" for code in found.languages)]
        names = [name for name in found.files if not name.startswith("converted/")]
        return {
            "id": found.id,
            "sha": found.revision,
            "private": False,
            "gated": "auto" if found.gated else False,
            "disabled": False,
            "downloads": found.downloads,
            "tags": [*tags, *([f"license:{found.licence}"] if found.licence else [])],
            "description": found.description,
            "cardData": head,
            "siblings": [self._hf_file(found, name, blobs=blobs) for name in names],
        }

    def _hf_file(self, found: FakeDataset, name: str, *, blobs: bool) -> dict[str, Any]:
        content = found.files[name]
        if not blobs:
            return {"rfilename": name}
        row: dict[str, Any] = {"rfilename": name, "size": len(content)}
        if len(content) >= LFS_FROM:
            return row | {"lfs": {"sha256": self._sha256(content), "size": len(content), "pointerSize": 130}}
        head = b"wrong" if self.hub.lie else b"blob"
        made = hashlib.sha1(head + b" %d\0" % len(content) + content, usedforsecurity=False)
        return row | {"blobId": made.hexdigest()}

    def _sha256(self, content: bytes) -> str:
        return "0" * 64 if self.hub.lie else hashlib.sha256(content).hexdigest()

    def _ms(self, found: FakeDataset) -> dict[str, Any]:
        return {
            "id": found.id,
            "display_name": found.title,
            "description": found.description,
            "downloads": found.downloads,
            "license": found.licence,
            "tags": [*found.tags, *(f"language:{code}" for code in found.languages)],
            "tasks": [],
            "gated": found.gated,
            "file_size": sum(map(len, found.files.values())),
        }

    def _content(self, content: bytes) -> None:
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if begin >= len(content) > 0:
            self._answer(416, b"", {})
            return
        end = len(content)
        if self.hub.break_after:
            end = min(end, begin + self.hub.break_after)
            self.hub.break_after = 0
        heads = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
        self._answer(206 if begin else 200, content[begin:end], heads, announced=len(content) - begin)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value, ensure_ascii=False).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, heads: Mapping[str, str], *, announced: int | None = None) -> None:
        self.send_response(status)
        for name, value in heads.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)
        if announced is not None and announced != len(body):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `asked` keeps it."""


_ROUTES = (
    (r"/api/datasets", "hf_search"),
    (r"/api/datasets/([^/]+/[^/]+)/revision/(.+)", "hf_revision"),
    (r"/api/datasets/([^/]+/[^/]+)", "hf_card"),
    (r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "hf_file"),
    (r"/openapi/v1/datasets", "ms_search"),
    (r"/openapi/v1/datasets/([^/]+/[^/]+)", "ms_card"),
    (r"/api/v1/datasets/([^/]+/[^/]+)/repo/tree", "ms_tree"),
    (r"/api/v1/datasets/([^/]+/[^/]+)/repo", "ms_file"),
    (r"/cdn/([^/]+/[^/]+)/-/(.+)", "cdn"),
)

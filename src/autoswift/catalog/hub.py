"""The two model hubs over plain https: what a model consists of, and each file, resumable and hashed as it arrives.

Not by the hubs' own clients: theirs check the size of a download only, and this way both hubs share one tested path.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from autoswift.catalog import net
from autoswift.catalog.availability import huggingface_endpoint, modelscope_endpoint, offline
from autoswift.errors import HubUnreachable, ModelError
from autoswift.run.disk import disk_errors_explained
from autoswift.tables import explain, told

if TYPE_CHECKING:
    import httpx

ATTEMPTS = net.ATTEMPTS
CHUNK = 2**20
DURABLE = 2**24
"""Bytes from which a file is synced to the disk. A small one that a power cut loses is noticed by its hash, and comes
again in a moment."""
UNSAID = 2**26
"""Bytes that a file may have whose size the hub does not say."""
Advance = Callable[[int], None]
_HEX40, _HEX64 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a model.

    Attributes:
        size: bytes; 0 when the hub does not say.
        sha256: empty where the hub does not say (small files on Hugging Face).
        url: where it lies. alternative: where else, when it is not there.
        git_sha1: git's name of the content, which Hugging Face gives for small files; empty when unknown.
    """

    name: str
    size: int
    sha256: str
    url: str
    git_sha1: str = ""
    alternative: str = ""

    @property
    def announced(self) -> bool:
        """Whether the hub's list says what the content is."""
        return bool(self.sha256 or self.git_sha1)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A model at one revision."""

    id: str
    revision: str
    files: tuple[HubFile, ...]


@dataclass(slots=True, kw_only=True)
class Session:
    """What the downloads of one model share: connections, and the sign to stop."""

    client: httpx.Client
    cancel: threading.Event = field(default_factory=threading.Event)


def endpoint_of(source: str) -> str:
    """The address of a hub."""
    return huggingface_endpoint() if source == "huggingface" else modelscope_endpoint()


def list_model(source: str, model_id: str, revision: str = "") -> HubModel:
    """What the hub says the model consists of.

    Args:
        source: huggingface or modelscope.
        model_id: owner/name.
        revision: a commit, or empty for the newest.

    Raises:
        ModelError: when the hub has no such model or revision, or wants its terms accepted first.
        HubUnreachable: when it does not answer.
    """
    if offline():
        raise HubUnreachable(*explain("hub.offline", model=model_id))
    with net.client(endpoint_of(source)) as client:
        listed = _huggingface if source == "huggingface" else _modelscope
        try:
            return listed(client, model_id, revision)
        except net.AbsentError as exc:
            host = net.host_of(endpoint_of(source))
            raise ModelError(*explain("hub.absent", host=host, name=model_id)) from exc


def _huggingface(client: httpx.Client, model_id: str, revision: str) -> HubModel:
    base = f"{huggingface_endpoint()}/api/models/{quote(model_id)}"
    wanted = [f"{base}/revision/{quote(revision, safe='')}", base] if revision else [base, f"{base}/revision/main"]
    info: dict[str, Any] = {}
    for number, url in enumerate(wanted):
        try:
            info = net.get_json(client, f"{url}?blobs=true", model_id)
            break
        except net.AbsentError:
            if number:
                raise
    sha = str(info.get("sha") or "main")
    if revision and sha != revision:
        raise _moved(model_id, huggingface_endpoint(), revision, sha)
    files = []
    for row in _rows(info.get("siblings")):
        lfs: dict[str, Any] = row["lfs"] if isinstance(row.get("lfs"), dict) else {}
        name = str(row.get("rfilename", ""))
        url = f"{huggingface_endpoint()}/{quote(model_id)}/resolve/{quote(sha, safe='')}/{quote(name, safe='/')}"
        sha256 = _hex(_HEX64, lfs.get("sha256") or str(lfs.get("oid") or "").removeprefix("sha256:"))
        git = "" if lfs else _hex(_HEX40, row.get("blobId"))  # of an LFS file it names the pointer, not the content
        size = _size(lfs.get("size") or row.get("size"))
        files.append(HubFile(name=name, size=size, sha256=sha256, url=url, git_sha1=git))
    return HubModel(id=model_id, revision=sha, files=tuple(files))


def _modelscope(client: httpx.Client, model_id: str, revision: str) -> HubModel:
    base, at = f"{modelscope_endpoint()}/api/v1/models/{quote(model_id)}/repo", revision or "master"
    query = urlencode({"Revision": at, "Recursive": "True"})
    try:
        info = net.get_json(client, f"{base}/files?{query}", model_id)
    except net.AbsentError:
        if not revision:
            raise
        # Every file has its SHA-256 in the list: whether the newest is still what was pinned, the hashes tell.
        return _modelscope(client, model_id, "")
    data = info.get("Data")
    if not isinstance(data, dict) or not data.get("Files"):
        raise net.AbsentError(model_id)
    files, newest_at, newest_commit = [], -1, ""
    for row in _rows(data["Files"]):
        if row.get("Type") == "tree":
            continue
        name = str(row.get("Path", ""))
        if _size(row.get("CommittedDate")) > newest_at:  # the list has no commit of its own, each file has its last
            newest_at, newest_commit = _size(row.get("CommittedDate")), str(row.get("Revision") or "")
        url = f"{base}?{urlencode({'Revision': at, 'FilePath': name})}"
        other = f"{modelscope_endpoint()}/models/{quote(model_id)}/resolve/{quote(at, safe='')}/{quote(name, safe='/')}"
        sha256 = _hex(_HEX64, row.get("Sha256"))
        files.append(HubFile(name=name, size=_size(row.get("Size")), sha256=sha256, url=url, alternative=other))
    return HubModel(id=model_id, revision=revision or newest_commit or "master", files=tuple(files))


def _rows(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _size(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _hex(pattern: re.Pattern[str], value: object) -> str:
    text = str(value or "").lower()
    return text if pattern.fullmatch(text) else ""


def _moved(model_id: str, endpoint: str, revision: str, newest: str) -> ModelError:
    return ModelError(
        *explain("trust.revision_gone", model=model_id, host=net.host_of(endpoint), revision=revision, newest=newest)
    )


def download(file: HubFile, target: Path, advance: Advance, session: Session | None = None) -> str:
    """Brings one file to `target` and returns its SHA-256; a part that is there already is continued.

    Args:
        file: what to bring.
        target: where it goes; until it is whole and its hash is right it is called `<target>.part`, and what it is a
            part of stands in `<target>.part.json`.
        advance: told the number of bytes that each step brought; a negative number when a part was of no use.
        session: shared with other files; None makes one.

    Raises:
        ModelError: when what arrived is not what the hub announced.
        HubUnreachable: when the hub breaks off again and again.
        CancelledError: when the session was cancelled.
    """
    if session is None:
        with net.client(file.url) as client:
            return download(file, target, advance, Session(client=client))
    coming = _Coming(file, target, advance, session)
    while True:
        net.persistently(coming.step, file.url, session.cancel, coming.have)
        wrong = coming.wrong()
        if not wrong:
            return coming.finish()
        resumed = coming.resumed
        coming.discard()
        if not resumed:
            raise ModelError(*explain("hub.damaged", file=file.name, **wrong))
        # Bytes of an older try were part of it: once more, from the first byte on.


def brings_proof(first: dict[str, str]) -> tuple[str, str]:
    """The content's SHA-256 and git SHA-1 as the hub's first answer tells them, where its list does not."""
    said = (first.get("x-linked-etag") or first.get("etag") or "").removeprefix("W/").strip('"').lower()
    return _hex(_HEX64, said), _hex(_HEX40, said)


class _Coming:
    """A file on its way."""

    def __init__(self, file: HubFile, target: Path, advance: Advance, session: Session) -> None:
        self.file, self.target, self.advance, self.session = file, target, advance, session
        self.part = target.with_name(target.name + ".part")
        self.state = target.with_name(target.name + ".part.json")
        self.resumed = False
        self.sha256, self.git_sha1 = file.sha256.lower(), file.git_sha1.lower()
        self._digest, self._etag, self._url = hashlib.sha256(), "", file.url
        self._begin()

    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _identity(self) -> dict[str, Any]:
        return {"size": self.file.size, "sha256": self.file.sha256, "git_sha1": self.file.git_sha1}

    def _begin(self) -> None:
        """Hashes what an earlier process left, when it is of the same file."""
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            state = {}
        known = isinstance(state, dict) and {**state, **self._identity()} == state and self.file.announced
        if self.part.is_symlink() or not known or (self.file.size and self.have() > self.file.size):
            self.part.unlink(missing_ok=True)
            self.state.unlink(missing_ok=True)
            return
        if have := self.have():
            self._etag = str(state.get("etag") or "")
            self.resumed = True
            with self.part.open("rb") as f:
                while block := f.read(CHUNK):
                    self._digest.update(block)
            self.advance(have)

    def discard(self) -> None:
        self.advance(-self.have())
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)
        self.resumed, self._etag, self._digest = False, "", hashlib.sha256()

    def step(self) -> None:
        """Brings the rest, as far as one request goes."""
        have = self.have()
        if have and have == self.file.size:
            return
        extra = {"Range": f"bytes={have}-"} if have else {}
        if have and self._etag:
            extra["If-Range"] = self._etag
        try:
            with net.opened(self.session.client, self._url, self.file.name, extra) as (answer, first):
                if not self.file.announced and not (self.sha256 or self.git_sha1):
                    self.sha256, self.git_sha1 = brings_proof(first)
                self._read(answer, have)
        except net.AbsentError as exc:
            if self._url == self.file.alternative or not self.file.alternative:
                host = net.host_of(self.file.url)
                raise ModelError(*explain("hub.absent", host=host, name=self.file.name)) from exc
            self._url = self.file.alternative
            raise net.InterruptionError(told("error.hub.no_answer")) from exc

    def _read(self, answer: httpx.Response, have: int) -> None:
        limit, status = self.file.size or UNSAID, answer.status_code
        if have and not (status == 206 and self._continues(answer, have)):
            # The server does not continue, or continues something else: from the start, with a new request unless
            # this answer is the whole file.
            self.discard()
            have = 0
            if status != 200:
                raise net.InterruptionError("the server refused to continue the download")
        elif status != 200 and not have:
            raise net.InterruptionError(f"status {status}")
        if not have:
            etag = answer.headers.get("etag", "")
            self._etag = etag if etag.startswith('"') else ""
            self.state.write_text(json.dumps(self._identity() | {"etag": self._etag}), encoding="utf-8")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with disk_errors_explained(str(self.part.parent)), os.fdopen(os.open(self.part, flags, 0o644), "wb") as f:
            try:
                for block in net.blocks(answer, self.session.cancel):
                    have += len(block)
                    if have > limit:
                        self.discard()
                        raise ModelError(*explain("trust.too_long", file=self.file.name, size=limit))
                    f.write(block)
                    self._digest.update(block)
                    self.advance(len(block))
            finally:
                f.flush()
            if have >= DURABLE:
                os.fsync(f.fileno())
        if self.file.size and have < self.file.size:
            raise net.InterruptionError(told("error.hub.short", have=have, size=self.file.size))

    def _continues(self, answer: httpx.Response, have: int) -> bool:
        """Whether the answer begins where the part ends, and is of a file of the same length."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("content-range", f"bytes {have}-0/*"))
        if not found or int(found[1]) != have:
            return False
        return found[2] == "*" or not self.file.size or int(found[2]) == self.file.size

    def wrong(self) -> dict[str, Any]:
        """What does not agree, as values of the error; empty when all does."""
        digest, size, git = self._digest.hexdigest(), self.have(), ""
        right = not self.file.size or size == self.file.size
        right = right and self.sha256 in ("", digest)
        if right and self.git_sha1:
            git = git_sha1(self.part)
            right = git == self.git_sha1
        if right:
            return {}
        said = self.sha256 or self.git_sha1 or told("error.unknown")
        return {"size": self.file.size, "sha256": said, "digest": git if git and not self.sha256 else digest}

    def finish(self) -> str:
        os.replace(self.part, self.target)
        self.state.unlink(missing_ok=True)
        return self._digest.hexdigest()


def git_sha1(path: Path) -> str:
    """Git's name for a content: proves that the hub's small file arrived, nothing about who wrote it."""
    made = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as f:
        while block := f.read(CHUNK):
            made.update(block)
    return made.hexdigest()


def part_bytes(target: Path) -> int:
    """Bytes of a download that broke off."""
    part = target.with_name(target.name + ".part")
    return part.stat().st_size if part.is_file() else 0


def head_of_weights(file: HubFile, session: Session, begin: int, stop: int) -> bytes:
    """Some bytes of a file, for its header; they are not proven by any hash yet.

    Raises:
        InterruptionError: when the hub does not give parts.
    """

    def ask() -> bytes:
        extra = {"Range": f"bytes={begin}-{stop - 1}"}
        with net.opened(session.client, file.url, file.name, extra) as (answer, _):
            if answer.status_code != 206 and begin:
                raise net.InterruptionError(f"status {answer.status_code}")
            got = bytearray()
            for block in net.blocks(answer, session.cancel):
                got += block
                if len(got) >= stop - begin:
                    break
            if len(got) < stop - begin:
                raise net.InterruptionError(told("error.hub.short", have=len(got), size=stop - begin))
            return bytes(got[: stop - begin])

    return net.persistently(ask, file.url, session.cancel)

"""The two model hubs over plain https: what a model consists of, and its files, resumable and hashed as they arrive.

Not by the hubs' own clients: theirs check the size of a download only, and this way both hubs share one tested path.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoswift.catalog.availability import huggingface_endpoint, modelscope_endpoint, offline
from autoswift.errors import HubUnreachable, ModelError
from autoswift.run.disk import disk_errors_explained
from autoswift.tables import explain, told

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 4
"""Tries of one request, waiting 1, 2 and 4 seconds between them: hubs answer 429 and 5xx for moments."""
CHUNK = 2**20
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a model; sha256 is empty where the hub does not say (small files on Hugging Face)."""

    name: str
    size: int
    sha256: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A model at one revision."""

    id: str
    revision: str
    files: tuple[HubFile, ...]


def list_model(source: str, model_id: str) -> HubModel:
    """What the hub says the model consists of.

    Args:
        source: huggingface or modelscope.
        model_id: owner/name.

    Raises:
        ModelError: when the hub has no such model or wants its terms accepted first.
        HubUnreachable: when it does not answer.
    """
    if offline():
        raise HubUnreachable(*explain("hub.offline", model=model_id))
    return _huggingface(model_id) if source == "huggingface" else _modelscope(model_id)


def _huggingface(model_id: str) -> HubModel:
    endpoint = huggingface_endpoint()
    info = _get_json(f"{endpoint}/api/models/{model_id}", {"blobs": "true"}, model_id)
    revision = str(info.get("sha") or "main")
    files = []
    for row in info.get("siblings") or ():
        lfs = row.get("lfs") or {}
        name = str(row.get("rfilename", ""))
        url = f"{endpoint}/{model_id}/resolve/{revision}/{name}"
        size = int(lfs.get("size") or row.get("size") or 0)
        files.append(HubFile(name=name, size=size, sha256=str(lfs.get("sha256") or ""), url=url))
    return HubModel(id=model_id, revision=revision, files=tuple(files))


def _modelscope(model_id: str) -> HubModel:
    endpoint = modelscope_endpoint()
    query = {"Revision": "master", "Recursive": "true"}
    info = _get_json(f"{endpoint}/api/v1/models/{model_id}/repo/files", query, model_id)
    data = info.get("Data")
    rows = data.get("Files") if isinstance(data, dict) else None
    files, newest = [], ""
    for row in rows or ():
        if row.get("Type") == "tree":
            continue
        name, revision = str(row.get("Path", "")), str(row.get("Revision") or "master")
        newest = max(newest, revision)
        url = f"{endpoint}/models/{model_id}/resolve/master/{name}"
        files.append(HubFile(name=name, size=int(row.get("Size") or 0), sha256=str(row.get("Sha256") or ""), url=url))
    return HubModel(id=model_id, revision=newest or "master", files=tuple(files))


def download(file: HubFile, target: Path, advance: Advance) -> str:
    """Brings one file to `target` and returns its SHA-256; a part that is there already is continued.

    Args:
        file: what to bring.
        target: where it goes; until it is whole and its hash is right it is called `<target>.part`.
        advance: told the number of bytes that each step brought.

    Raises:
        ModelError: when what arrived is not what the hub announced.
        HubUnreachable: when the hub breaks off again and again.
    """
    part = target.with_name(target.name + ".part")
    for attempt in range(ATTEMPTS):
        try:
            digest = _stream(file, part, advance)
            break
        except _interruptions() as exc:
            if attempt + 1 == ATTEMPTS:
                raise _unreachable(file.url, str(exc)) from exc
            time.sleep(2**attempt)
    if (file.size and part.stat().st_size != file.size) or (file.sha256 and digest != file.sha256.lower()):
        part.unlink()
        raise ModelError(
            *explain(
                "hub.damaged",
                file=file.name,
                size=file.size,
                sha256=file.sha256 or told("error.unknown"),
                digest=digest,
            )
        )
    os.replace(part, target)
    return digest


def _stream(file: HubFile, part: Path, advance: Advance) -> str:
    """Continues `part` to its end; returns the SHA-256 of the whole."""
    have = part.stat().st_size if part.exists() else 0
    if file.size and have > file.size:
        part.unlink()
        have = 0
    digest = hashlib.sha256()
    if have:
        with part.open("rb") as f:
            while block := f.read(CHUNK):
                digest.update(block)
    if have and have == file.size:
        advance(have)
        return digest.hexdigest()
    headers = _headers(file.url) | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    import httpx

    with httpx.stream("GET", file.url, headers=headers, timeout=30.0, follow_redirects=True) as answer:
        if answer.status_code == 416 or (have and answer.status_code == 200):
            have, digest = 0, hashlib.sha256()  # the server does not continue: from the start
            if answer.status_code == 416:
                part.unlink()
                raise httpx.ReadError("the server refused to continue the download")
        if answer.status_code >= 400:
            _refused(answer, file.name)
        with disk_errors_explained(str(part.parent)), part.open("ab" if have else "wb") as f:
            advance(have)
            for block in answer.iter_raw():  # as it comes: what a break leaves behind is kept to the last byte
                f.write(block)
                digest.update(block)
                advance(len(block))
            f.flush()
            os.fsync(f.fileno())
    return digest.hexdigest()


def _get_json(url: str, query: dict[str, str], model_id: str) -> dict[str, Any]:
    import httpx

    for attempt in range(ATTEMPTS):
        try:
            answer = httpx.get(url, params=query, headers=_headers(url), timeout=20.0, follow_redirects=True)
            if answer.status_code >= 400:
                _refused(answer, model_id)
            value = answer.json()
            if not isinstance(value, dict):
                raise _unreachable(url, told("error.hub.not_a_model"))
            return value
        except ValueError as exc:
            raise _unreachable(url, told("error.hub.not_json")) from exc
        except _interruptions() as exc:
            if attempt + 1 == ATTEMPTS:
                raise _unreachable(url, str(exc)) from exc
            time.sleep(2**attempt)
    raise _unreachable(url, told("error.hub.no_answer"))


def _refused(answer: httpx.Response, name: str) -> None:
    """Turns an error status into what it means; raises in every case.

    Raises:
        ModelError: not there, or not allowed.
        httpx.HTTPStatusError: anything else, which is tried again.
    """
    import httpx

    status, host = answer.status_code, answer.url.host
    if status in (401, 403):
        raise ModelError(*explain("hub.refused", host=host, name=name, status=status))
    if status == 404:
        raise ModelError(*explain("hub.absent", host=host, name=name))
    raise httpx.HTTPStatusError(f"status {status}", request=answer.request, response=answer)


def _headers(url: str) -> dict[str, str]:
    """The user's token goes to the hub that it is for, and nowhere else."""
    token = os.environ.get("HF_TOKEN", "")
    agent = {"User-Agent": "autoswift"}
    return agent | {"Authorization": f"Bearer {token}"} if token and url.startswith(huggingface_endpoint()) else agent


def _interruptions() -> tuple[type[Exception], ...]:
    import httpx

    return (httpx.HTTPError, httpx.StreamError)


def _unreachable(url: str, why: str) -> HubUnreachable:
    return HubUnreachable(*explain("hub.unreachable", url=url, evidence=why))

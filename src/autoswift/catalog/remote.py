"""A hub's model before it is fetched: its facts, whether it may be used, and what models.lock says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from autoswift.catalog import hub, lockfile, names, net, store, weights
from autoswift.catalog.availability import hub_answers, offline
from autoswift.catalog.cached import is_here
from autoswift.catalog.folder import check_small, facts_of, inspect_folder
from autoswift.catalog.hub import HubFile, Session
from autoswift.catalog.models import ModelFacts
from autoswift.catalog.policy import Verdict, judge
from autoswift.catalog.store import Snapshot
from autoswift.catalog.transfers import Tell, hash_all
from autoswift.errors import HubUnreachable, ModelError
from autoswift.run.files import file_sha256
from autoswift.tables import explain, text

HEADERS = 16
"""Shards whose headers are read over the line; of more, sizes tell the number of weights as well."""
FIRST_BYTES = 2**20
"""Of a shard, in one request: longer headers are rare."""
PREFIXES = {"hf://": "huggingface", "ms://": "modelscope"}
Progress = Callable[[str, int, int], None]
"""Called with (what, bytes done, bytes in all; 0 when unknown)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A hub's model, looked at.

    Attributes:
        facts: as of a model of the catalogue.
        verdict: what the policy says; nothing was enforced yet.
        bytes_to_fetch: that are not here yet.
    """

    facts: ModelFacts
    verdict: Verdict
    revision: str
    bytes_to_fetch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LockUpdate:
    """What `update_lock` changed: names of files that are other, new or gone."""

    source: str
    location: str
    before: str
    after: str
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """A pinned file: ok, changed or absent."""

    name: str
    state: str
    bytes: int


def is_reference(name: str) -> bool:
    """Whether it names a model on a hub: owner/name, hf://owner/name or ms://owner/name."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return names.is_id(name)


def resolve(reference: str) -> tuple[str, str]:
    """Source and id of a model on a hub.

    Without a prefix: where it is pinned, else the first hub that answers and has it.

    Raises:
        ModelError: when it is none, or no hub has it. HubUnreachable: when none answers.
    """
    for prefix, source in PREFIXES.items():
        if reference.startswith(prefix):
            model_id = reference.removeprefix(prefix)
            store.folder_of(source, model_id)  # refuses what is no id
            return source, model_id
    store.folder_of("huggingface", reference)
    for source in PREFIXES.values():
        if lockfile.locked(source, reference).files:
            return source, reference
    answering = [source for source in PREFIXES.values() if hub_answers(hub.endpoint_of(source), 3.0)]
    if not answering:
        if offline():
            raise HubUnreachable(*explain("hub.offline", model=reference))
        raise HubUnreachable(*explain("trust.no_hub", model=reference))
    for source in answering[:-1]:
        try:
            hub.list_model(source, reference)
        except ModelError:
            continue
        return source, reference
    return answering[-1], reference


def hub_facts(reference: str, progress: Progress | None = None, *, language: str = "en") -> ModelFacts:
    """Facts of a model that stands in no catalogue, from its configuration and the headers of its weights.

    Args:
        reference: owner/name, hf://owner/name or ms://owner/name.
        progress: told what happens.
        language: of the words told.

    Raises:
        ModelError: it cannot be used. HubUnreachable: when the hub does not answer.
    """
    return candidate(reference, progress, language=language).facts


def candidate(reference: str, progress: Progress | None = None, *, language: str = "en") -> Candidate:
    """Looks at a hub's model: a few megabytes are brought, none of its weights.

    Args:
        reference: owner/name, hf://owner/name or ms://owner/name.
        progress: told what happens.
        language: of the words told.

    Raises:
        ModelError: it cannot be used. HubUnreachable: when the hub does not answer.
    """
    source, model_id = resolve(reference)
    folder = store.folder_of(source, model_id)
    with lockfile.exclusive(store.guard(folder)):
        found = store.look(source, model_id, teller(progress, language))
        verdict = judge(found.subject)
        facts = _facts(found)
    place = {"hf": model_id} if source == "huggingface" else {"ms": model_id}
    facts = replace(facts, id=model_id, path="", **place)  # type: ignore[arg-type]
    left = sum(file.size for file in found.waiting)
    return Candidate(facts=facts, verdict=verdict, revision=found.revision, bytes_to_fetch=left)


def _facts(found: Snapshot) -> ModelFacts:
    """From what is here, or from the headers of what is not."""
    if not found.waiting:
        return inspect_folder(found.folder)
    check_small(found.folder)
    facts_of(found.folder, 0, set(), found.id)  # refuses before the line is used for headers
    index = weights.index_of(found.folder)
    shards = found.waiting
    if len(shards) > HEADERS:
        # 2 bytes a weight, as nearly all are published; the headers are read when they are here.
        return facts_of(found.folder, sum(f.size for f in shards) // 2, set(index), found.id)
    headers = {p.name: weights.read_header(p) for p in sorted(found.folder.glob("*.safetensors"))}
    with net.client(shards[0].url) as client:
        session = Session(client=client)
        headers |= {file.name: _header(file, session, found.id) for file in shards}
    parameters, tensors = weights.count(headers, index, found.id)
    return facts_of(found.folder, parameters, tensors, found.id)


def _header(file: HubFile, session: Session, model_id: str) -> dict[str, dict[str, object]]:
    path = f"{model_id}/{file.name}"
    raw = hub.head_of_weights(file, session, 0, min(file.size, FIRST_BYTES))
    length = weights.header_length(raw[:8], file.size, path)
    if len(raw) < 8 + length:
        raw += hub.head_of_weights(file, session, len(raw), 8 + length)
    return weights.parse_header(raw[8 : 8 + length], file.size, path)


def teller(progress: Progress | None, language: str) -> Tell:
    """What the store tells, as words for a person."""

    def tell(key: str, name: str, done: int, total: int, rate: float) -> None:
        if progress is None:
            return
        if key == "download" and rate > 0:
            words = text("catalog.fetch.download_rate", language, name=name, rate=f"{rate / 1e6:.1f}")
        else:
            words = text(f"catalog.fetch.{key}", language, name=name)
        progress(words, done, total)

    return tell


def update_lock(reference: str, progress: Progress | None = None, *, language: str = "en") -> LockUpdate:
    """Pins a model anew as it is now, because a person asked for it: the hub's newest revision, or a folder's files.

    Overrides are by hash: a model that is other than before is asked for again.

    Args:
        reference: a hub's model, or a folder.
        progress: told what happens.
        language: of the words told.

    Raises:
        ModelError: when it cannot be used as it is now. HubUnreachable: when the hub does not answer.
    """
    if not is_reference(reference) or Path(reference).expanduser().is_dir():
        folder = Path(reference).expanduser().resolve()
        source, location, revision = "folder", str(folder), ""
        inspect_folder(folder)
        paths = {path.name: path for path in safe_paths(folder)}
        hashes = hash_all(paths, lambda name, done, total: teller(progress, language)("verify", name, done, total, 0))
    else:
        source, location = resolve(reference)
        with lockfile.exclusive(store.guard(store.folder_of(source, location))):
            found = store.look(source, location, teller(progress, language), fresh=True)
            _facts(found)
        hashes, revision = found.hashes, found.revision
    before = lockfile.replace(source, location, hashes, revision)
    changed = sorted(n for n in before.files.keys() | hashes.keys() if before.files.get(n) != hashes.get(n))
    return LockUpdate(source=source, location=location, before=before.revision, after=revision, changed=tuple(changed))


def safe_paths(folder: Path) -> list[Path]:
    """The files of a folder that a model needs and that cannot run code: never *.py, *.bin, *.pt, *.pkl."""
    used = {path.name for path in weights.weight_files(folder)}
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and names.is_safe(path.name)]
    found = [path for path in found if path.suffix != ".safetensors" or path.name in used]
    return [p for p in found if p.name not in names.SENTENCEPIECES or weights.is_sentencepiece(p)]


def is_cached(source: str, location: str) -> bool:
    """Whether a hub's model is pinned and lies here whole, so that no hub is needed to use it."""
    checks = verify(source, location)
    return bool(checks) and all(one.state == "ok" for one in checks)


def verify(source: str, location: str, *, full: bool = False) -> list[FileCheck]:
    """Compares what is on this machine with models.lock; asks no hub.

    Args:
        source: huggingface, modelscope or folder.
        location: hub id or folder.
        full: hash every byte; else files whose size and time are as when they were last hashed count as unchanged.
    """
    folder = Path(location) if source == "folder" else store.folder_of(source, location)
    checks = []
    for name, digest in sorted(lockfile.locked_files(source, location).items()):
        path = folder / name
        there = path.is_file()
        good = there and (
            file_sha256(path) == digest if source == "folder" else is_here(folder, name, digest, full=full)
        )
        state = "ok" if good else "changed" if there else "absent"
        checks.append(FileCheck(name=name, state=state, bytes=path.stat().st_size if there else 0))
    return checks

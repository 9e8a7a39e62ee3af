"""Models of the hubs in the cache: listed, looked through, brought in parallel, and what is here checked again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from autoswift.catalog import hub, lockfile, names, weights
from autoswift.catalog.alternatives import instead_of
from autoswift.catalog.cached import is_here
from autoswift.catalog.hub import HubFile, HubModel
from autoswift.catalog.lockfile import Locked
from autoswift.catalog.policy import Subject, fingerprint
from autoswift.catalog.transfers import Tell, bring
from autoswift.errors import ModelError
from autoswift.run.places import cache_folder
from autoswift.tables import explain

EARLY = 2**27
"""Bytes up to which a file whose SHA-256 is not announced comes before anyone is asked: its hash is part of the
question. Weights are announced by theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A hub's model as it is known before its weights are here.

    Attributes:
        folder: in the cache; configurations and tokenizer are there.
        hashes: name to SHA-256 of every file that is needed, announced or computed.
        files: all that are needed, each with its hash; empty when all are here. waiting: those still to come.
        unproven: files of which neither list nor lock says the hash.
    """

    source: str
    id: str
    folder: Path
    revision: str
    hashes: dict[str, str]
    files: tuple[HubFile, ...]
    waiting: tuple[HubFile, ...]
    unproven: tuple[str, ...] = ()

    @property
    def subject(self) -> Subject:
        """What the policy judges."""
        return Subject(
            source=self.source,
            location=self.id,
            revision=self.revision,
            fingerprint=fingerprint(self.hashes),
            files=self.hashes,
            unproven=self.unproven,
        )


def folder_of(source: str, model_id: str) -> Path:
    """Where a hub's model lies in the cache."""
    if not names.is_id(model_id):
        raise ModelError(*explain("trust.bad_id", name=ascii(model_id)[:120]))
    plain = f"{source}--{model_id.replace('/', '--')}"
    if "--" in model_id:  # a/b--c and a--b/c are two models
        plain += f"--{hashlib.sha256(model_id.encode()).hexdigest()[:8]}"
    return cache_folder() / "models" / plain


def guard(folder: Path) -> Path:
    """The file whose kernel lock keeps other processes from the folder."""
    return folder.with_name(f".{folder.name}.flock")


def look(source: str, model_id: str, tell: Tell, *, fresh: bool = False) -> Snapshot:
    """The model without its weights; the hub is asked only for what is not here. Call it under the folder's lock.

    Args:
        source: huggingface or modelscope.
        model_id: owner/name.
        tell: told of progress.
        fresh: take the newest revision, whatever is pinned.

    Raises:
        ModelError: it cannot be used, or is not what is pinned.
        HubUnreachable: when the hub is needed and does not answer.
    """
    folder = folder_of(source, model_id)
    pin = Locked(files={}) if fresh else lockfile.locked(source, model_id)
    if pin.files and all(is_here(folder, name, digest) for name, digest in pin.files.items()):
        return Snapshot(
            source=source, id=model_id, folder=folder, revision=pin.revision, hashes=pin.files, files=(), waiting=()
        )
    model = hub.list_model(source, model_id, pin.revision)
    files = select(model, pin)
    early = [f for f in files if not _waits(f)]
    large = next((f for f in early if f.size > EARLY), None)
    if large is not None:
        raise ModelError(*explain("trust.no_hash", model=model_id, name=large.name))
    unproven = tuple(sorted(f.name for f in early if not f.announced))
    got = bring(folder, early, tell, of=files)
    files = [replace(f, sha256=got.get(f.name) or f.sha256) for f in _used(model.id, folder, files)]
    hashes = {f.name: f.sha256 for f in files}
    for path in folder.iterdir():  # of another revision
        if path.name not in hashes and names.is_safe(path.name):
            path.unlink()
    return Snapshot(
        source=source,
        id=model_id,
        folder=folder,
        revision=model.revision,
        hashes=hashes,
        files=tuple(files),
        waiting=tuple(f for f in files if _waits(f) and not is_here(folder, f.name, f.sha256)),
        unproven=unproven,
    )


def _used(model_id: str, folder: Path, files: list[HubFile]) -> list[HubFile]:
    """Without weights that the index does not name, and without a .model file that is no SentencePiece model.

    Raises:
        ModelError: when the index names weights that the hub does not list.
    """
    shards = set(weights.index_of(folder).values()) if any(f.name == weights.INDEX for f in files) else set()
    missing = sorted(shards - {f.name for f in files})
    if missing:
        values = {"missing": len(missing), "all": len(shards), "first": missing[0], "file": weights.INDEX}
        raise ModelError(*explain("folder.shards", folder=model_id, **values))
    kept = [f for f in files if not shards or not names.is_weights(f.name) or f.name in shards]
    return [f for f in kept if f.name not in names.SENTENCEPIECES or weights.is_sentencepiece(folder / f.name)]


def _waits(file: HubFile) -> bool:
    """Weights whose hash is announced come last, after everything small was looked at."""
    return names.is_weights(file.name) and bool(file.sha256)


def select(model: HubModel, pin: Locked) -> list[HubFile]:
    """The files that are needed, with the hash that each must have.

    Raises:
        ModelError: no safetensors, a name that means harm, or not what is pinned.
    """
    names.check((f.name for f in model.files), model.id)
    files = [f for f in model.files if names.is_safe(f.name)]
    by_name = {f.name: f for f in files}
    if pin.files:
        wrong = next((n for n in sorted(pin.files) if n not in by_name), "")
        if wrong:
            raise _moved(model, pin, wrong, "–")
        for name, digest in sorted(pin.files.items()):
            if by_name[name].sha256 not in ("", digest):
                raise _moved(model, pin, name, by_name[name].sha256)
        return [replace(by_name[name], sha256=digest) for name, digest in sorted(pin.files.items())]
    weights = [f for f in files if names.is_weights(f.name)]
    if not weights:
        raise _no_weights(model)
    preferred = [f for f in weights if f.name.startswith("model")]
    left = {f.name for f in weights if preferred and f not in preferred}
    return sorted((f for f in files if f.name not in left), key=lambda f: f.name)


def _no_weights(model: HubModel) -> ModelError:
    top = [f.name for f in model.files if "/" not in f.name]
    pickles = [name for name in top if Path(name).suffix.lower() in names.PICKLES]
    if pickles:
        instead = instead_of(model.id)
        return ModelError(*explain("trust.only_pickles", model=model.id, file=pickles[0], instead=instead))
    if any(f.name.endswith(".gguf") for f in model.files):
        return ModelError(*explain("folder.gguf_weights", folder=model.id))
    return ModelError(*explain("fetch.no_safetensors", model=model.id))


def _moved(model: HubModel, pin: Locked, name: str, digest: str) -> ModelError:
    return ModelError(
        *explain(
            "trust.moved",
            model=model.id,
            name=name,
            digest=digest,
            known=pin.files[name],
            revision=pin.revision or "–",
            newest=model.revision,
            lock=lockfile.lock_path(),
        )
    )

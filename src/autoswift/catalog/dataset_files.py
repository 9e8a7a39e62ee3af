"""Which files of a data set hold examples, and how they come into the cache: never a script, never a pickle."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from autoswift.catalog import hub
from autoswift.catalog.lockfile import exclusive
from autoswift.domain.dataset import DatasetCard, DatasetFile, Downloaded, Selection
from autoswift.errors import DataError, DiskFull, ModelError
from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import digest, dumps, file_sha256, write_atomic
from autoswift.run.places import cache_folder
from autoswift.tables import explain, table, told

FORMATS = (".jsonl", ".parquet", ".json", ".csv", ".tsv", ".txt")
"""What is read, the surest first: where two formats hold as much, the first is taken."""
NOT_DATA = re.compile(
    r"(?:dataset_infos?|dataset_dict|state|config|package|package-lock|croissant|tokenizer.*|requirements.*"
    r"|licen[cs]e.*|readme.*|notice.*|changelog.*|manifest)\.(?:json|txt)",
    re.IGNORECASE,
)
"""Files about a data set, by name, in a format that examples come in too."""
HELD_OUT = frozenset(("tests", "evaluation", "benchmark"))
"""Words of a path for what others measure on, beside those of the table `understand`: training on it would make their
figures worthless."""
MARGIN = 2**28
"""Bytes kept free beside a data set, for the run that reads it."""
MANIFEST = ".manifest.json"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+|[A-Za-z0-9][\w.-]*")
_LONGEST = 180
"""Bytes of one part of a path: file systems end at 255, and `.part` is put behind it."""


def is_id(dataset_id: str) -> bool:
    """Whether it is owner/name (or one of the hub's own data sets, which are a name alone)."""
    return bool(_ID.fullmatch(dataset_id)) and ".." not in dataset_id and len(dataset_id) <= 200


def is_data(name: str) -> bool:
    """Whether a file of that name can hold examples."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(".") or len(part.encode()) > _LONGEST for part in parts):
        return False
    if "\\" in name or "\0" in name or name.startswith("/"):
        return False
    return kind(name) != "" and not NOT_DATA.fullmatch(parts[-1])


def kind(name: str) -> str:
    """The format by the name's ending, packed or not; empty when it is none that is read."""
    plain = name.lower().removesuffix(".gz")
    return next((ending for ending in FORMATS if plain.endswith(ending)), "")


def select(card: DatasetCard, subset: str, splits: Sequence[str], largest: int) -> Selection:
    """The files of one subset that hold examples to train on.

    Args:
        card: with its files.
        subset: as the user or the registry names it; empty takes the default one.
        splits: wanted, by the names that the data set uses; where it has none of them, all that is not held out.
        largest: bytes of all files together; whole files are taken in the order of their names.

    Raises:
        DataError: when there is no such subset, or no file that can be read, or each is too large.
    """
    left_out = {file.name: "not_data" for file in card.files if not is_data(file.name)}
    data = sorted((file for file in card.files if is_data(file.name)), key=lambda file: _natural(file.name))
    if not data:
        names = ", ".join(sorted(left_out)[:5]) or told("error.unknown")
        raise DataError(*explain("dataset.no_data", dataset=card.reference, files=names))
    subset, kept = _of_subset(card, subset, data, splits)
    left_out |= {file.name: "other_subset" for file in data if file not in kept}
    chosen = _of_split(kept, splits)
    left_out |= {file.name: "other_split" for file in kept if file not in chosen}
    one = _of_one_format(chosen)
    left_out |= {file.name: "other_format" for file in chosen if file not in one}
    taken: list[DatasetFile] = []
    for file in one:
        if sum(f.size for f in taken) + file.size <= largest:
            taken.append(file)
        else:
            left_out[file.name] = "too_large"
    if not taken:
        size = min(file.size for file in one)
        raise DataError(*explain("dataset.too_large", dataset=card.reference, size=size / 1e9, largest=largest / 1e9))
    return Selection(files=tuple(taken), subset=subset, left_out=left_out)


def _of_subset(
    card: DatasetCard, subset: str, data: list[DatasetFile], splits: Sequence[str]
) -> tuple[str, list[DatasetFile]]:
    """By the card's own configuration where it names files, else by the words of the paths."""
    configured = {name: parts for name, parts in card.subsets.items() if any(parts.values())}
    wanted = subset or (next(iter(configured)) if configured else "")
    if wanted in configured:
        parts = configured[wanted]
        patterns = [p for split in splits for p in parts.get(split, ())] or [p for ps in parts.values() for p in ps]
        hit = [file for file in data if any(fnmatch.fnmatchcase(file.name, p.lstrip("./")) for p in patterns)]
        if hit:
            return (wanted if len(configured) > 1 else ""), hit
    if not subset or subset == "default":
        return "", data
    hit = [file for file in data if subset.lower() in _path_words(file.name)]
    if not hit:
        known = ", ".join(list(configured)[:12]) or told("error.dataset.no_subsets")
        raise DataError(*explain("dataset.no_subset", dataset=card.reference, subset=subset, known=known))
    return subset, hit


def _path_words(name: str) -> set[str]:
    """Folders, the stem, and its words: `data/zh-train.jsonl` → data, zh-train, zh, train."""
    stem = name.lower().removesuffix(".gz").rpartition(".")[0]
    return set(stem.split("/")) | set(re.split(r"[/_.\-]+", stem))


@cache
def _held_out() -> frozenset[str]:
    splits = table("understand")["splits"]
    return HELD_OUT | {str(word) for name in ("validation", "test") for word in splits[name]}


def _split_words(name: str) -> set[str]:
    """The first and the last word of each part of a path, where a split's name stands.

    `unit-test-generation.jsonl` is no test set, `data/train-00000-of-00001.parquet` is a training one.
    """
    words = [re.findall(r"[a-z]+", part) for part in name.lower().removesuffix(".gz").rpartition(".")[0].split("/")]
    return {word for part in words if part for word in (part[0], part[-1])}


def _of_split(files: list[DatasetFile], splits: Sequence[str]) -> list[DatasetFile]:
    wanted = {word for split in splits for word in (split.lower(), *re.findall(r"[a-z]+", split.lower()))}
    named = [file for file in files if wanted & _split_words(file.name)]
    open_ones = [file for file in files if not (_held_out() - wanted) & _split_words(file.name)]
    return named or open_ones or files


def _of_one_format(files: list[DatasetFile]) -> list[DatasetFile]:
    """The format that holds most: the others are copies, or files about the examples."""
    sizes: dict[str, int] = {}
    for file in files:
        sizes[kind(file.name)] = sizes.get(kind(file.name), 0) + file.size
    best = max(sizes, key=lambda ending: (sizes[ending], -FORMATS.index(ending)))
    return [file for file in files if kind(file.name) == best]


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in a name count as numbers: part-2 before part-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d{1,18})", name)]


def fingerprint(files: Iterable[DatasetFile]) -> str:
    """A revision for a hub that has none: what the files are."""
    return digest(sorted((file.name, file.size, file.sha256) for file in files))[:16]


def folder_of(card: DatasetCard) -> Path:
    """Where a data set's files lie, by its revision: a new one never overwrites what a run has read."""
    revision = re.sub(r"[^\w.-]", "-", card.revision)[:16] or "main"
    # The last two names say nothing: a reader takes "…-test" in a folder's name for a test set.
    return cache_folder() / "datasets" / f"{card.hub}--{card.id.replace('/', '--')}" / revision / "rows" / "all"


def download(card: DatasetCard, selection: Selection, advance: Callable[[int], None]) -> Downloaded:
    """Brings the selected files into the cache, each whole or not at all.

    Raises:
        DataError: when what arrived is not what the hub announced.
        HubUnreachable: when the hub breaks off again and again.
        DiskFull: when there is no room.
    """
    folder = folder_of(card)
    with exclusive(folder.with_name(f".{folder.name}.flock")):
        known = _manifest(folder)
        hashes: dict[str, str] = {}
        for file in selection.files:
            target = _inside(folder, file.name)
            if target.is_file() and known.get(file.name) == file_sha256(target):
                advance(file.size)
            else:
                _room(folder, file.size)
                with disk_errors_explained(str(folder)):
                    target.parent.mkdir(parents=True, exist_ok=True)
                known[file.name] = _brought(file, target, advance)
                write_atomic(folder / MANIFEST, dumps(known, indent=1))  # after each: a break loses one file at most
            hashes[file.name] = known[file.name]
    paths = tuple(_inside(folder, file.name) for file in selection.files)
    return Downloaded(card=card, selection=selection, folder=folder, paths=paths, hashes=hashes)


def _brought(file: DatasetFile, target: Path, advance: Callable[[int], None]) -> str:
    """One file with the hub's proof of its content; returns its SHA-256."""
    wanted = hub.HubFile(name=file.name, size=file.size, sha256=file.sha256, git_sha1=file.git_sha1, url=file.url)
    try:
        return hub.download(wanted, target, advance)
    except ModelError as exc:  # damaged, gone, or longer than announced
        raise DataError(exc.what, exc.why, told("error.dataset.damaged.fix")) from exc


def _inside(folder: Path, name: str) -> Path:
    """The file's place below the folder.

    Raises:
        DataError: when the name leads out of it.
    """
    target = Path(os.path.normpath(folder / _local(name)))
    if not is_data(name) or not target.is_relative_to(folder) or not target.parent.resolve().is_relative_to(folder):
        raise DataError(*explain("dataset.bad_name", name=name))
    return target


def _local(name: str) -> str:
    """The path in the cache.

    A part that others hold out and that is all there is loses that word: whoever reads it here must not take it for
    the user's own test set.
    """
    if not _held_out() & _split_words(name):
        return name
    ending = kind(name) + (".gz" if name.lower().endswith(".gz") else "")
    return f"part-{digest(name)[:12]}{ending}"


def _manifest(folder: Path) -> dict[str, str]:
    """File name to SHA-256 of what was brought whole; empty when nothing was, or when it is damaged."""
    try:
        value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else {}


def _room(folder: Path, needed: int) -> None:
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed + MARGIN:
        raise DiskFull(*explain("dataset.room", place=place, free=free / 1e9, needed=(needed + MARGIN) / 1e9))

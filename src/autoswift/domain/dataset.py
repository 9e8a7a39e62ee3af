"""Data sets that a hub offers: what their cards say, and what they consist of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Hub = Literal["huggingface", "modelscope"]
SCHEMES: dict[str, Hub] = {"hf": "huggingface", "ms": "modelscope"}
"""What stands before `://` in a reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFile:
    """One file of a data set.

    Attributes:
        name: path within the data set, as the hub writes it: not to be trusted as a path here.
        size: bytes, 0 when the hub does not say.
        sha256: of its content, empty where the hub does not say.
        git_sha1: git's hash of its content (small files on Hugging Face), empty otherwise.
    """

    name: str
    size: int
    url: str
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetCard:
    """What a hub says about a data set; texts are empty and numbers 0 when it does not say.

    Attributes:
        id: owner/name. revision: that the files are of.
        licence: as the card writes it, in lower case.
        languages: ISO 639-1 codes. tags: what else it is filed under, tasks included.
        rows: examples in its training part. size_words: the hub's class of size ("10K<n<100K").
        gated: its terms must be accepted at the hub first.
        files: empty in search results, where the hub lists them without sizes.
        subsets: name to split to path patterns, as the card configures them.
    """

    hub: Hub
    id: str
    revision: str = ""
    title: str = ""
    description: str = ""
    licence: str = ""
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    rows: int = 0
    size_words: str = ""
    size: int = 0
    downloads: int = 0
    gated: bool = False
    files: tuple[DatasetFile, ...] = ()
    subsets: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """`hf://owner/name` or `ms://owner/name`."""
        return reference(self.hub, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The files of a data set that a run reads.

    Attributes:
        subset: which part of the data set they are, empty when it has none.
        left_out: file name to why, one of not_data other_subset other_split other_format too_large.
    """

    files: tuple[DatasetFile, ...]
    subset: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloaded:
    """A data set's files on this machine, in the order of their names."""

    card: DatasetCard
    selection: Selection
    folder: Path
    paths: tuple[Path, ...]
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search over the hubs gave.

    Attributes:
        asked: hub to how many data sets it named.
        failed: hub to why it named none.
    """

    cards: tuple[DatasetCard, ...] = ()
    asked: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


def reference(hub: Hub, dataset_id: str, subset: str = "") -> str:
    """`hf://owner/name`, with `:subset` behind it where one is meant."""
    scheme = next(scheme for scheme, name in SCHEMES.items() if name == hub)
    return f"{scheme}://{dataset_id}" + (f":{subset}" if subset else "")

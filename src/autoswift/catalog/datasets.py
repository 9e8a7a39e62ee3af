"""Data sets on both hubs over plain https: searched, described, and brought into the cache with every hash checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from autoswift.catalog import dataset_files, net
from autoswift.catalog.availability import huggingface_endpoint, modelscope_endpoint, offline
from autoswift.domain.dataset import DatasetCard, DatasetFile, Downloaded, Hub, SearchResult, Selection
from autoswift.errors import AutoSwiftError, DataError, HubUnreachable, ModelError
from autoswift.tables import explain, told

if TYPE_CHECKING:
    import httpx

AT_ONCE = 4
"""Searches under way together: more from one address is what hubs call abuse."""
PAGE = 200
MOST_PAGES = 25
"""5,000 files: a data set of more is one of single images."""
CONVERTED = "refs/convert/parquet"
"""Where Hugging Face keeps its own Parquet copy of a data set, also of those that are only a script."""


class DatasetHubs:
    """Both hubs as one: `hf://owner/name` and `ms://owner/name`."""

    def __init__(self) -> None:
        self._answering: tuple[Hub, ...] | None = None

    def answering(self) -> tuple[Hub, ...]:
        """The hubs that can be asked now; found out once."""
        if self._answering is None:
            hubs: tuple[Hub, ...] = ("huggingface", "modelscope")
            with ThreadPoolExecutor(max_workers=2) as pool:
                up = list(pool.map(lambda hub: _answers(_endpoint(hub)), hubs))
            self._answering = tuple(hub for hub, answers in zip(hubs, up, strict=True) if answers)
        return self._answering

    def search(self, words: Sequence[str], limit: int) -> SearchResult:
        """What each hub that answers offers for each word, each data set once, best match of the hub first.

        Args:
            words: each one is a search.
            limit: data sets a search.
        """
        hubs = self.answering()
        pairs = [(hub, word) for hub in hubs for word in words]
        with ExitStack() as stack, ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            sessions = {hub: stack.enter_context(net.client(_endpoint(hub))) for hub in hubs}
            answers = list(pool.map(lambda pair: _searched(sessions[pair[0]], pair[0], pair[1], limit), pairs))
        found: dict[tuple[str, str], DatasetCard] = {}
        asked = dict.fromkeys((str(hub) for hub in hubs), 0)
        failed: dict[str, str] = {}
        for (hub, _), answer in zip(pairs, answers, strict=True):
            if isinstance(answer, str):
                failed[hub] = answer
                continue
            for card in answer:
                if (hub, card.id.lower()) not in found:
                    asked[hub] += 1
                    found[hub, card.id.lower()] = card
        return SearchResult(cards=tuple(found.values()), asked=asked, failed=failed)

    def card(self, hub: Hub, dataset_id: str) -> DatasetCard:
        """A data set with its files, their sizes and hashes.

        Raises:
            DataError: when the hub has no such data set or does not give it to everyone.
            HubUnreachable: when the hub does not answer, or may not be asked.
        """
        if offline():
            raise HubUnreachable(*explain("dataset.offline", dataset=dataset_id))
        if not dataset_files.is_id(dataset_id):
            raise DataError(*explain("dataset.bad_id", dataset=dataset_id))
        with net.client(_endpoint(hub)) as session:
            return _huggingface(session, dataset_id) if hub == "huggingface" else _modelscope(session, dataset_id)

    def select(self, card: DatasetCard, subset: str, splits: Sequence[str], largest: int) -> Selection:
        """The files of one subset that hold examples to train on.

        Raises:
            DataError: when there is no such subset, or no file that can be read.
        """
        return dataset_files.select(card, subset, splits, largest)

    def download(self, card: DatasetCard, selection: Selection, advance: Callable[[int], None]) -> Downloaded:
        """Brings the selected files into the cache; what is there already is checked and used.

        Raises:
            DataError: when what arrived is not what the hub announced.
            HubUnreachable: when the hub breaks off again and again.
            DiskFull: when there is no room.
        """
        return dataset_files.download(card, selection, advance)


def _endpoint(hub: Hub) -> str:
    return huggingface_endpoint() if hub == "huggingface" else modelscope_endpoint()


def _answers(place: str) -> bool:
    """Whether anything that speaks http is there; a gateway that says so for a hub that is down is not it."""
    if offline():
        return False
    import httpx

    try:
        with net.client(place) as session:
            return session.head(place, timeout=3.0).status_code not in (502, 503, 504)
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return False


def _searched(session: httpx.Client, hub: Hub, word: str, limit: int) -> list[DatasetCard] | str:
    """The data sets for one word, or why there are none."""
    try:
        if hub == "huggingface":
            query = {"search": word, "limit": str(limit), "full": "true", "sort": "downloads", "direction": "-1"}
            rows = _get_json(session, f"{huggingface_endpoint()}/api/datasets", query, word)
            return [_hf_card(row) for row in rows if _named(row)] if isinstance(rows, list) else []
        query = {"search": word, "page_number": "1", "page_size": str(limit)}
        data = _data(_get_json(session, f"{modelscope_endpoint()}/openapi/v1/datasets", query, word))
        rows = data.get("datasets") if isinstance(data, dict) else data
        return [_ms_card(row) for row in rows or () if _named(row)]
    except AutoSwiftError as exc:
        return f"{exc.what} {exc.why}".strip()


def _named(row: object) -> bool:
    return isinstance(row, dict) and dataset_files.is_id(str(row.get("id") or ""))


def _huggingface(session: httpx.Client, dataset_id: str) -> DatasetCard:
    place = f"{huggingface_endpoint()}/api/datasets/{quote(dataset_id)}"
    info = _object(_get_json(session, place, {"blobs": "true"}, dataset_id), place)
    card = _hf_card(info | {"id": info.get("id") or dataset_id})
    card = replace(card, files=_hf_files(card.id, card.revision, info.get("siblings")))
    if not any(dataset_files.is_data(file.name) for file in card.files) and not card.gated:
        try:
            branch = f"{place}/revision/{quote(CONVERTED, safe='')}"
            converted = _object(_get_json(session, branch, {"blobs": "true"}, dataset_id), branch)
        except AutoSwiftError:
            return card
        files = _hf_files(card.id, str(converted.get("sha") or CONVERTED), converted.get("siblings"))
        return replace(card, revision=str(converted.get("sha") or ""), files=files, subsets={})
    return card


def _hf_card(info: Mapping[str, Any]) -> DatasetCard:
    """A card from the hub's answer, of a search or of the data set itself."""
    data = info.get("cardData")
    head: Mapping[str, Any] = data if isinstance(data, dict) else {}
    tags = [tag for tag in info.get("tags") or () if isinstance(tag, str)]
    name = str(info["id"])
    return DatasetCard(
        hub="huggingface",
        id=name,
        revision=str(info.get("sha") or "main"),
        title=_text(head.get("pretty_name")),
        description=_text(info.get("description"))[:2000],
        licence=", ".join(_words(head.get("license")) or _tagged(tags, "license")).lower(),
        languages=tuple(word.lower() for word in _words(head.get("language")) or _tagged(tags, "language")),
        tags=_subjects(tags),
        rows=_train_rows(head.get("dataset_info")),
        size_words=next(iter(_tagged(tags, "size_categories")), ""),
        downloads=_number(info.get("downloads")),
        gated=bool(info.get("gated")) or bool(info.get("disabled")),
        subsets=_subsets(head.get("configs")),
    )


def _hf_files(dataset_id: str, revision: str, rows: object) -> tuple[DatasetFile, ...]:
    files = []
    for row in rows if isinstance(rows, list) else ():
        lfs = row.get("lfs") if isinstance(row.get("lfs"), dict) else {}
        name = str(row.get("rfilename", ""))
        place = f"{huggingface_endpoint()}/datasets/{quote(dataset_id)}"
        files.append(
            DatasetFile(
                name=name,
                size=_number(lfs.get("size") or row.get("size")),
                url=f"{place}/resolve/{quote(revision, safe='')}/{quote(name)}",
                sha256=str(lfs.get("sha256") or lfs.get("oid") or "").removeprefix("sha256:"),
                git_sha1="" if lfs else str(row.get("blobId") or ""),
            )
        )
    return tuple(files)


def _modelscope(session: httpx.Client, dataset_id: str) -> DatasetCard:
    endpoint, path = modelscope_endpoint(), quote(dataset_id)
    info = _object(_data(_get_json(session, f"{endpoint}/openapi/v1/datasets/{path}", {}, dataset_id)), endpoint)
    card = _ms_card(info | {"id": dataset_id})
    files: list[DatasetFile] = []
    for page in range(1, MOST_PAGES + 1):
        query = {"Revision": "master", "Recursive": "True", "PageNumber": str(page), "PageSize": str(PAGE)}
        data = _data(_get_json(session, f"{endpoint}/api/v1/datasets/{path}/repo/tree", query, dataset_id))
        rows = data.get("Files") if isinstance(data, dict) else data
        rows = [row for row in rows or () if isinstance(row, dict)]
        for row in rows:
            if row.get("Type") != "tree":
                name = str(row.get("Path") or row.get("Name") or "")
                url = f"{endpoint}/api/v1/datasets/{path}/repo?Revision=master&FilePath={quote(name, safe='')}"
                size, sha256 = _number(row.get("Size")), str(row.get("Sha256") or "")
                files.append(DatasetFile(name=name, size=size, sha256=sha256, url=url))
        if len(rows) < PAGE:
            break
    # The hub counts no revision of the whole: what the files are names it.
    return replace(card, revision=dataset_files.fingerprint(files), files=tuple(files))


def _ms_card(info: Mapping[str, Any]) -> DatasetCard:
    tags = [*_words(info.get("tags")), *_words(info.get("tasks"))]
    return DatasetCard(
        hub="modelscope",
        id=str(info["id"]),
        title=_text(info.get("display_name")),
        description=_text(info.get("description"))[:2000],
        licence=_text(info.get("license")).lower(),
        languages=tuple(word.lower() for word in _tagged(tags, "language")),
        tags=_subjects(tags),
        size=_number(info.get("file_size")),
        downloads=_number(info.get("downloads")),
        gated=bool(info.get("gated")) or bool(info.get("login_required")),
    )


def _subsets(configs: object) -> dict[str, dict[str, tuple[str, ...]]]:
    """The card's `configs:` as subset to split to patterns; the default one comes first."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    rows = [row for row in configs if isinstance(row, dict)] if isinstance(configs, list) else []
    for row in sorted(rows, key=lambda row: not (row.get("default") or row.get("config_name") == "default")):
        files = row.get("data_files")
        splits: dict[str, tuple[str, ...]] = {}
        for part in files if isinstance(files, list) else [files]:
            if isinstance(part, dict):
                splits[str(part.get("split") or "train")] = tuple(_words(part.get("path")))
            elif isinstance(part, str):
                splits["train"] = (*splits.get("train", ()), part)
        found[str(row.get("config_name") or "default")] = splits
    return found


def _train_rows(info: object) -> int:
    """Examples in the training splits of the card's (first) `dataset_info`, or in all of them."""
    first = info[0] if isinstance(info, list) and info else info
    splits = first.get("splits") if isinstance(first, dict) else None
    rows = [row for row in splits if isinstance(row, dict)] if isinstance(splits, list) else []
    train = [row for row in rows if str(row.get("name", "")).startswith("train")]
    return sum(_number(row.get("num_examples")) for row in train or rows)


def _words(value: object) -> list[str]:
    """A text or a list of texts as a list."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _tagged(tags: Sequence[str], kind: str) -> list[str]:
    return [tag.partition(":")[2] for tag in tags if tag.startswith(f"{kind}:")]


def _subjects(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags that say what a set is about; those of other kinds ("library:pandas", "region:us") are left out."""
    kinds = ("task_categories:", "task_ids:", "modality:")
    kept = [tag for tag in tags if ":" not in tag or tag.startswith(kinds)]
    return tuple(dict.fromkeys(tag.rpartition(":")[2] for tag in kept))


def _text(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float) and value > 0 else 0


def _object(value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _no_dataset(place)
    return value


def _data(answer: object) -> Any:
    """ModelScope's answers wrap what was asked for."""
    if isinstance(answer, dict):
        return next((answer[key] for key in ("data", "Data") if key in answer), answer)
    return answer


def _get_json(session: httpx.Client, url: str, query: Mapping[str, str], name: str) -> Any:
    """One answer of a hub, an object or a list.

    Raises:
        DataError: not there, or not for everyone.
        HubUnreachable: no usable answer.
    """
    full = f"{url}?{urlencode(query)}" if query else url

    def ask() -> bytes:
        with net.opened(session, full, name) as (answer, _):
            body = bytearray()
            for block in net.blocks(answer, decoded=True):
                body += block
                if len(body) > net.ANSWER_BYTES:
                    raise _no_dataset(url)
            return bytes(body)

    try:
        return json.loads(net.persistently(ask, url))
    except net.AbsentError as exc:
        raise DataError(*explain("dataset.absent", host=net.host_of(url), name=name)) from exc
    except ModelError as exc:  # a redirect that may not be followed, or terms that must be accepted
        raise DataError(*explain("dataset.refused", host=net.host_of(url), name=name, evidence=exc.what)) from exc
    except (ValueError, RecursionError) as exc:
        evidence = told("error.hub.not_json")
        raise HubUnreachable(*explain("dataset.unreachable", url=url, evidence=evidence)) from exc
    except HubUnreachable as exc:
        raise HubUnreachable(*explain("dataset.unreachable", url=url, evidence=exc.why)) from exc


def _no_dataset(url: str) -> HubUnreachable:
    return HubUnreachable(*explain("dataset.unreachable", url=url, evidence=told("error.dataset.not_a_dataset")))

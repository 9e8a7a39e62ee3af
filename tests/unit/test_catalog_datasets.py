from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoswift.catalog import net
from autoswift.catalog.dataset_files import is_data, is_id, select
from autoswift.catalog.datasets import DatasetHubs
from autoswift.domain.dataset import DatasetCard, DatasetFile
from autoswift.errors import DataError, HubUnreachable
from autoswift.testing.hub import FakeDataset, FakeHub
from autoswift.testing.shelf import jsonl, poem_rows, shelf

POEMS = "classics/tang-poetry-instructions"
GB = 10**9


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Both hubs on this machine."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "AUTOSWIFT_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(net, "pause", lambda seconds, cancel: None)
    with FakeHub(shelf()) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def files(*names: str, size: int = 10) -> tuple[DatasetFile, ...]:
    return tuple(DatasetFile(name=name, size=size, url="http://nowhere") for name in names)


def card(*names: str, **more: object) -> DatasetCard:
    return DatasetCard(hub="huggingface", id="a/b", files=files(*names), **more)


def taken(one: DatasetCard, subset: str = "", splits: tuple[str, ...] = ("train",), largest: int = GB) -> list[str]:
    return [file.name for file in select(one, subset, splits, largest).files]


def test_both_hubs_are_searched_and_each_set_is_named_once(online: FakeHub) -> None:
    found = DatasetHubs().search(["poetry", "POETRY", "poem"], 20)
    assert found.asked == {"huggingface": 6, "modelscope": 6}
    assert not found.failed
    names = [one.reference for one in found.cards]
    assert len(names) == len(set(names))
    assert {f"hf://{POEMS}", f"ms://{POEMS}"} <= set(names)
    one = next(c for c in found.cards if c.reference == f"hf://{POEMS}")
    assert (one.licence, one.languages, one.rows, one.size_words) == ("cc0-1.0", ("zh",), 195, "n<1K")
    assert "text-generation" in one.tags
    assert not any(":" in tag for tag in one.tags)


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_card_says_what_the_data_set_consists_of(online: FakeHub, name: str) -> None:
    content = online.datasets[0].files["data/train.jsonl"]
    one = DatasetHubs().card(name, POEMS)
    file = next(f for f in one.files if f.name == "data/train.jsonl")
    assert file.size == len(content)
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert one.licence == "cc0-1.0"
    assert one.revision


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_only_the_data_comes_and_it_comes_once(online: FakeHub, name: str, autoswift_home: Path) -> None:
    hubs = DatasetHubs()
    one = hubs.card(name, POEMS)
    told: list[int] = []
    got = hubs.download(one, hubs.select(one, "", ("train",), GB), told.append)
    assert [json.loads(line) for line in got.paths[0].read_text(encoding="utf-8").splitlines()] == poem_rows()
    assert sum(told) == got.selection.size
    tables = autoswift_home / "cache" / "tables"  # our own, in a faster form
    found = [p for p in autoswift_home.rglob("*") if p.is_file() and p.parent != tables]
    there = {p.name for p in found if not p.name.startswith(".")}
    assert there == {"train.jsonl"}  # neither build.py nor README.md nor an empty preview
    asked = len(online.asked)
    again = hubs.download(one, hubs.select(one, "", ("train",), GB), told.append)
    assert again.hashes == got.hashes
    assert len(online.asked) == asked


def test_a_changed_file_of_the_cache_is_brought_again(online: FakeHub) -> None:
    hubs = DatasetHubs()
    one = hubs.card("huggingface", POEMS)
    chosen = hubs.select(one, "", ("train",), GB)
    path = hubs.download(one, chosen, lambda n: None).paths[0]
    good = path.read_bytes()
    path.write_bytes(good.replace("春".encode(), "冬".encode()))
    assert hubs.download(one, chosen, lambda n: None).paths[0].read_bytes() == good


def test_a_broken_download_goes_on_where_it_broke(online: FakeHub) -> None:
    hubs = DatasetHubs()
    one = hubs.card("huggingface", POEMS)
    online.break_after = 5000
    got = hubs.download(one, hubs.select(one, "", ("train",), GB), lambda n: None)
    assert got.paths[0].read_bytes() == online.datasets[0].files["data/train.jsonl"]
    assert "bytes=5000-" in [begin for _, begin, _ in online.asked]


@pytest.mark.parametrize("size", [50, 5000])
@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_what_is_not_what_the_hub_announced_is_refused(online: FakeHub, name: str, size: int) -> None:
    content = jsonl([{"query": "q", "response": "r" * size}])
    online.datasets = [FakeDataset(id="a/b", files={"train.jsonl": content})]
    online.lie = True
    hubs = DatasetHubs()
    one = hubs.card(name, "a/b")
    with pytest.raises(DataError, match=r"arrived damaged"):
        hubs.download(one, hubs.select(one, "", ("train",), GB), lambda n: None)


def test_busy_hubs_are_asked_again_and_dead_ones_named(online: FakeHub) -> None:
    online.failing = [503, 429]
    assert DatasetHubs().card("huggingface", POEMS).id == POEMS
    online.failing = [503] * 50
    with pytest.raises(HubUnreachable, match="did not answer"):
        DatasetHubs().card("modelscope", POEMS)
    online.failing = [500] * 8
    assert "status 500" in DatasetHubs().search(["poem"], 5).failed["huggingface"]


def test_absent_and_refused_sets_are_explained(online: FakeHub) -> None:
    with pytest.raises(DataError, match="has no data set a/nothing"):
        DatasetHubs().card("huggingface", "a/nothing")
    online.failing = [403]
    with pytest.raises(DataError, match="does not give"):
        DatasetHubs().card("huggingface", POEMS)
    with pytest.raises(DataError, match="no name of a data set"):
        DatasetHubs().card("huggingface", "../../etc/passwd")


def test_offline_nobody_is_asked(online: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSWIFT_OFFLINE", "1")
    assert DatasetHubs().answering() == ()
    assert DatasetHubs().search(["poem"], 5).cards == ()
    with pytest.raises(HubUnreachable, match="may not be asked"):
        DatasetHubs().card("huggingface", POEMS)
    assert online.asked == []


def test_the_token_goes_to_its_hub_alone(online: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", online.address.replace("127.0.0.1", "localhost"))
    DatasetHubs().card("huggingface", POEMS)
    DatasetHubs().card("modelscope", POEMS)
    sent = {path.split("/")[1]: token for path, _, token in online.asked}
    assert sent["openapi"] == ""
    assert [token for path, _, token in online.asked if path.startswith("/api/datasets")] == ["Bearer hf_secret"]


def test_a_set_that_is_a_script_comes_as_the_hubs_own_copy(online: FakeHub) -> None:
    rows = jsonl([{"query": "q", "response": "r"}])
    online.datasets = [FakeDataset(id="a/b", files={"b.py": b"1/0", "converted/default/train/0000.jsonl": rows})]
    hubs = DatasetHubs()
    one = hubs.card("huggingface", "a/b")
    got = hubs.download(one, hubs.select(one, "", ("train",), GB), lambda n: None)
    assert got.paths[0].read_bytes() == rows


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["train.jsonl", "test.jsonl", "dev.jsonl"], ["train.jsonl"]),
        (["a.json", "b.json", "validation.json"], ["a.json", "b.json"]),
        (["test.csv"], ["test.csv"]),  # all that there is
        (["unit-test-generation.jsonl", "dataset_infos.json"], ["unit-test-generation.jsonl"]),
        (["x.csv", "x.jsonl", "x.parquet"], ["x.jsonl"]),
        (["data/train-2.parquet", "data/train-10.parquet"], ["data/train-2.parquet", "data/train-10.parquet"]),
        (["train.jsonl.gz", "load.py", "w.pkl", "a.bin", "LICENSE.txt", "README.txt"], ["train.jsonl.gz"]),
    ],
)
def test_the_files_to_train_on_are_chosen(names: list[str], wanted: list[str]) -> None:
    assert taken(card(*names)) == wanted


def test_subsets_come_from_the_card_or_the_paths() -> None:
    configured = card(
        "zh/train.csv",
        "en/train.csv",
        "en/test.csv",
        subsets={"zh": {"train": ("zh/*.csv",)}, "en": {"train": ("en/train*",), "test": ("en/test*",)}},
    )
    assert taken(configured) == ["zh/train.csv"]
    assert taken(configured, "en") == ["en/train.csv"]
    assert taken(configured, "en", ("test",)) == ["en/test.csv"]
    assert taken(card("data/zh.jsonl", "data/en.jsonl"), "en") == ["data/en.jsonl"]
    with pytest.raises(DataError, match=r"no subset 'fr'") as caught:
        select(configured, "fr", ("train",), GB)
    assert "zh, en" in caught.value.why


def test_a_set_beyond_the_limit_comes_in_part_or_not() -> None:
    chosen = select(card("a.jsonl", "b.jsonl", "c.jsonl"), "", ("train",), 25)
    assert [f.name for f in chosen.files] == ["a.jsonl", "b.jsonl"]
    assert chosen.left_out == {"c.jsonl": "too_large"}
    with pytest.raises(DataError, match="larger than is brought"):
        select(card("a.jsonl"), "", ("train",), 5)
    with pytest.raises(DataError, match="no file that can be read") as caught:
        select(card("a.py", "b.pkl"), "", ("train",), 5)
    assert "a.py, b.pkl" in caught.value.why


def test_a_held_out_part_loses_that_name_here(online: FakeHub) -> None:
    online.datasets = [FakeDataset(id="a/b-test", files={"test.csv": b"q,a\n1,2\n"})]
    hubs = DatasetHubs()
    one = hubs.card("huggingface", "a/b-test")
    path = hubs.download(one, hubs.select(one, "", ("train",), GB), lambda n: None).paths[0]
    assert path.suffix == ".csv"
    assert "test" not in "/".join(path.parts[-3:])


ELSEWHERE = ["../a.jsonl", "/etc/a.json", "a/../../b.csv", "a\\b.json", ".git/a.json", "a.json\0", "a//b.txt"]
OTHERS = ["x.py", "x.pkl", "a.jsonl.exe", "a.zip", "model.bin", "config.json", "state.json", "requirements-dev.txt"]


@pytest.mark.parametrize("name", [*ELSEWHERE, *OTHERS, "x" * 300 + ".json"])
def test_names_that_are_no_data(name: str) -> None:
    assert not is_data(name)


def test_names_of_data_sets() -> None:
    assert [is_id(name) for name in ("a/b", "AI-ModelScope/train_0.5M_CN", "clue")] == [True] * 3
    assert [is_id(name) for name in ("a/b/c", "../b", "a/..", "", "a b/c", "/a", "a/b?x=1")] == [False] * 7

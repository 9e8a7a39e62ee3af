"""The two catalogues say the same things, and the source asks only for what they have."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Formatter
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "autoswift"
LOCALES = SOURCE / "tables" / "locales"
DYNAMIC: tuple[str, ...] = ()
"""Prefixes of keys that the source puts together in a way that this test does not see. They count as used."""
KEY = re.compile(r"[a-z_]+(\.[a-zA-Z0-9_-]+)+")
PREFIX = re.compile(r"[a-z_]+(\\\.[a-z_]+)*\\\.")  # an f-string, escaped, that begins as a key does
EXPLAINED = ("what", "why", "fix")
"""Of `explain(key)`: the texts are error.<key>.<part>; only the first must be there."""
IN_TEMPLATE = re.compile(r"""\bt\(\s*["']([\w.-]+)["']([^{}]*)""")


def catalogue(language: str) -> dict[str, str]:
    return dict(json.loads((LOCALES / f"{language}.json").read_text(encoding="utf-8")))


EN, ZH = catalogue("en"), catalogue("zh")


class Asked(NamedTuple):
    """One place in the source that asks for a text."""

    key: str
    values: frozenset[str] | None  # None: some come by **
    where: str


class Source(NamedTuple):
    room: str
    name: str
    tree: ast.Module


@cache
def sources() -> list[Source]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE)
        found.append(
            Source(inside.parts[0].removesuffix(".py"), inside.as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        )
    return found


def called(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def pattern(node: ast.JoinedStr) -> str:
    """An f-string as a regular expression."""
    return "".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else r".+" for p in node.values)


@cache
def prefixes() -> dict[str, str]:
    """Room -> what its own `say(key)` puts before the key: it calls `text(f"room.{key}", ...)`."""
    found: dict[str, set[str]] = defaultdict(set)
    for source in sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef) and node.name == "say":
                for call in ast.walk(node):
                    if called(call) == "text" and isinstance(call.args[0], ast.JoinedStr):
                        found[source.room].add(str(call.args[0].values[0].value))
    return {room: names.pop() for room, names in found.items() if len(names) == 1}


def choices(node: ast.expr) -> list[str]:
    """The literals that an argument can be."""
    if isinstance(node, ast.IfExp):
        return choices(node.body) + choices(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def keys_of(call: ast.Call, room: str) -> Iterator[str]:
    """The keys that a call asks for, as far as they are literals."""
    name = called(call)
    before = {"say": prefixes().get(room), "explain": "error."}.get(name, "")
    for literal in choices(call.args[0]) if before is not None else ():
        if not KEY.fullmatch(before + literal):  # `sqlalchemy.text("SELECT …")` is another text
            continue
        if name != "explain":
            yield before + literal
            continue
        yield f"{before}{literal}.what"
        yield from (key for part in EXPLAINED[1:] if (key := f"{before}{literal}.{part}") in EN)


def asked() -> Iterator[Asked]:
    for source in sources():
        for node in ast.walk(source.tree):
            if called(node) not in ("text", "say", "told", "explain") or not node.args:
                continue
            names = frozenset(k.arg for k in node.keywords if k.arg)
            values = names if len(names) == len(node.keywords) else None
            for key in keys_of(node, source.room):
                yield Asked(key, values, f"{source.name}:{node.lineno}")
    for path in sorted(SOURCE.rglob("*.j2")):
        before = prefixes()[path.relative_to(SOURCE).parts[0]]
        for match in IN_TEMPLATE.finditer(path.read_text(encoding="utf-8")):
            names = frozenset(re.findall(r"\b(\w+)=(?!=)", match[2]))
            if not match[1].endswith("."):  # t("h." ~ name)
                yield Asked(before + match[1], names, path.name)


def placeholders(text: str) -> set[str]:
    return {re.split(r"[.\[]", name)[0] for _, name, _, _ in Formatter().parse(text) if name is not None}


def all_of(prefix: str) -> str:
    """The f-string in `say` itself: it would take every key of the room."""
    return re.escape(prefix) + ".+"


def used() -> set[str]:
    """Keys that are asked for, stand as a literal (with or without the room), or fit an f-string."""
    keys = {one.key for one in asked()}
    patterns = set()
    for source in sources():
        before = prefixes().get(source.room, "")
        if source.room == "tables":  # `explain` puts each error's key together: its callers name them
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                keys |= {node.value, before + node.value}
            elif called(node) == "named" and node.args:
                patterns |= {re.escape(f"{group}.") + ".+" for group in choices(node.args[0]) if "." in group}
            elif isinstance(node, ast.JoinedStr) and PREFIX.match(pattern(node)) and pattern(node) != all_of(before):
                patterns |= {pattern(node), re.escape(before) + pattern(node)}
    for path in [*SOURCE.rglob("*.j2"), *SOURCE.rglob("tables/*.yaml")]:
        words = set(re.findall(r"[\w.-]+", path.read_text(encoding="utf-8")))
        keys |= words | {prefixes().get(path.relative_to(SOURCE).parts[0], "") + word for word in words}
    fits = re.compile("|".join(sorted(patterns)) or r"(?!)")
    return {key for key in EN if key in keys or key.startswith(DYNAMIC) or fits.fullmatch(key)}


def test_languages_have_the_same_keys() -> None:
    assert EN.keys() == ZH.keys()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_text_is_empty_and_keys_are_sorted(language: str) -> None:
    texts = catalogue(language)
    assert [key for key, value in texts.items() if not value.strip()] == []
    assert list(texts) == sorted(texts)


def test_languages_fill_the_same_placeholders() -> None:
    assert {k: (EN[k], ZH[k]) for k in EN if placeholders(EN[k]) != placeholders(ZH[k])} == {}


def test_chinese_is_chinese() -> None:
    """A text left in English would pass all else; names and units alone may have no Chinese character."""
    untranslated = [k for k, v in ZH.items() if len(v.split()) > 3 and not re.search("[一-鿿]", v)]
    assert untranslated == []


def test_source_asks_only_for_keys_that_exist() -> None:
    assert [one for one in asked() if one.key not in EN] == []


def test_source_gives_each_text_its_values() -> None:
    wrong = [
        (one, placeholders(EN[one.key]) - one.values)
        for one in asked()
        if one.values is not None and one.key in EN and not placeholders(EN[one.key]) <= one.values
    ]
    assert wrong == []


def test_no_key_is_unused() -> None:
    assert sorted(EN.keys() - used()) == []

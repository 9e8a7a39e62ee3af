"""The two catalogues say the same things, and the source asks only for what they have."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "autoswift"
LOCALES = SOURCE / "tables" / "locales"
DYNAMIC = [
    # Prefixes of keys that the source puts together from a value, each with who does it.
]
"""A key under one of these counts as used."""


KEY = re.compile(r"[a-z_]+(\.[a-z0-9_]+)+")


def catalogue(language: str) -> dict[str, str]:
    return dict(json.loads((LOCALES / f"{language}.json").read_text(encoding="utf-8")))


EN, ZH = catalogue("en"), catalogue("zh")


def literals() -> set[str]:
    """Every string in the package's source and tables that could be a key."""
    found = {node.value for tree in trees() for node in ast.walk(tree) if is_string(node)}
    for path in [*SOURCE.rglob("*.yaml"), *SOURCE.rglob("*.html"), *SOURCE.rglob("*.j2")]:
        words = path.read_text(encoding="utf-8")
        found |= {key for key in EN if key in words}
    return found


def trees() -> Iterator[ast.Module]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def calls() -> Iterator[tuple[ast.expr, set[str] | None, str]]:
    """First argument, names of the values (None: some come by **), and place of each call of `text`."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if called == "text":
                names = {k.arg for k in node.keywords if k.arg}
                whole = len(names) == len(node.keywords)
                yield node.args[0], names if whole else None, f"{path.relative_to(SOURCE)}:{node.lineno}"


def placeholders(text: str) -> set[str]:
    return {name.split(".")[0].split("[")[0] for _, name, _, _ in Formatter().parse(text) if name is not None}


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
    untranslated = [k for k, v in ZH.items() if len(v.split()) > 3 and not any("一" <= c <= "鿿" for c in v)]
    assert untranslated == []


def test_source_asks_only_for_keys_that_exist() -> None:
    missing = [
        (node.value, where)
        for node, _, where in calls()
        if isinstance(node, ast.Constant) and KEY.fullmatch(str(node.value)) and node.value not in EN
    ]
    assert missing == []


def test_source_gives_each_text_its_values() -> None:
    wrong = [
        (node.value, sorted(placeholders(EN[node.value]) - names), where)
        for node, names, where in calls()
        if isinstance(node, ast.Constant) and node.value in EN and names is not None
        if not placeholders(EN[node.value]) <= names
    ]
    assert wrong == []


def test_no_key_is_unused() -> None:
    used = literals()
    assert [key for key in EN if key not in used and not key.startswith(tuple(DYNAMIC))] == []

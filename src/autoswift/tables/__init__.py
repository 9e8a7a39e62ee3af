"""Facts and rules as data: YAML and JSON files in this folder, never Python."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any


@cache
def table(name: str) -> Any:
    """A table by its name without the ending, for instance `table("gpus")`. Callers must not change it."""
    import yaml

    return yaml.safe_load(files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def _catalogue(language: str) -> dict[str, str]:
    import json

    text = files(__name__).joinpath("locales", f"{language}.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def text(key: str, language: str, /, **values: object) -> str:
    """A text that a person reads, in their language.

    Args:
        key: its name in `locales/<language>.json`.
        language: `zh` or `en`.
        values: fill the text's `{placeholders}`.

    Raises:
        KeyError: when the catalogue has no such key (a test walks all keys).
    """
    return _catalogue(language)[key].format(**values)


def has_text(key: str, language: str) -> bool:
    """Whether the catalogue has the key."""
    return key in _catalogue(language)

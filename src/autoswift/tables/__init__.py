"""Facts and rules as data: YAML and JSON files in this folder, never Python."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

_language = "en"
"""Of errors. A plain variable: a process carries out one run at a time, in one language, and a context variable would
be empty again in each thread that a run starts, so that just their errors came out in English."""


@cache
def table(name: str) -> Any:
    """A table by its name without the ending, for instance `table("gpus")`. Callers must not change it."""
    import yaml

    # The same safe subset in C where PyYAML was built with it: a tenth of the time on the larger tables.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    reading = loader(files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    try:
        return reading.get_single_data()
    finally:
        reading.dispose()


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


def use_language(language: str) -> None:
    """Settles the language of the errors to come, for the whole process.

    Args:
        language: `zh` or `en`.
    """
    global _language
    _language = "zh" if language == "zh" else "en"


def explain(key: str, /, **values: object) -> tuple[str, str, str]:
    """What an error says: `raise InputError(*explain("decide.too_short", hours=2))`.

    Args:
        key: the texts are `error.<key>.what`, `.why` and `.fix`; where one of the last two is not there, it is empty.
        values: fill the texts' `{placeholders}`.

    Returns:
        What happened, why, and what to do, in the language settled by `use_language`.
    """
    what, why, fix = (f"error.{key}.{part}" for part in ("what", "why", "fix"))
    return (
        text(what, _language, **values),
        text(why, _language, **values) if has_text(why, _language) else "",
        text(fix, _language, **values) if has_text(fix, _language) else "",
    )


def told(key: str, /, **values: object) -> str:
    """A text that goes into an error, in the language of errors."""
    return text(key, _language, **values)


def named(group: str, name: str) -> str:
    """The readable name of a word of the record (a check, a symptom) in the language of errors, or the word itself."""
    key = f"{group}.{name}"
    return text(key, _language) if has_text(key, _language) else name.replace("_", " ")

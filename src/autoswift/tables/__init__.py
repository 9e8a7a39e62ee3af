"""Facts and rules as data: YAML and JSON files in this folder, never Python."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

_language = "en"
"""Of errors. A plain variable: a process carries out one run at a time, in one language, and a context variable would
be empty again in each thread that a run starts, so that just their errors came out in English."""


@cache
def table(name: str) -> Any:
    """A table by its name without the ending, for instance `table("gpus")`. Callers must not change it."""
    source = files(__name__).joinpath(f"{name}.yaml").read_bytes()
    try:
        kept = _kept(name, source)
        return json.loads(kept.read_bytes(), object_hook=_pairs_read)
    except RuntimeError:  # no home at all
        return _read(source.decode("utf-8"))
    except (OSError, ValueError):  # not read before, or cut off
        pass
    read = _read(source.decode("utf-8"))
    _keep(kept, read)
    return read


def _read(text: str) -> Any:
    import yaml

    # The same safe subset in C where PyYAML was built with it: a tenth of the time on the larger tables.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    reading = loader(text)
    try:
        return reading.get_single_data()
    finally:
        reading.dispose()


def _kept(name: str, source: bytes) -> Path:
    """Where the table lies as JSON once it was read: that takes a tenth of the time, and a plan needs a dozen tables.

    Another content has another name.
    """
    home = Path(os.environ.get("AUTOSWIFT_HOME") or "~/.autoswift").expanduser()
    return home / "cache" / "tables" / f"{name}-{hashlib.sha256(source).hexdigest()[:16]}.json"


def _keep(path: Path, read: Any) -> None:
    """Writes the JSON, if it can: a home that cannot be written only costs the time again."""
    try:
        said = json.dumps(_pairs_made(read), ensure_ascii=False)
    except TypeError:
        return  # a date, which JSON has not
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".table-", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(said)
        os.replace(temporary, path)
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


PAIRS = "\0"
"""Key of a mapping that has keys other than texts, which JSON has not: its value lists key and value by turns."""


def _pairs_made(value: Any) -> Any:
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _pairs_made(one) for key, one in value.items()}
        return {PAIRS: [[key, _pairs_made(one)] for key, one in value.items()]}
    return [_pairs_made(one) for one in value] if isinstance(value, list) else value


def _pairs_read(value: dict[str, Any]) -> dict[Any, Any]:
    return dict(value[PAIRS]) if PAIRS in value else value


@cache
def _catalogue(language: str) -> dict[str, str]:
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

"""Record in, HTML out. A page has no script and asks for nothing outside itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoswift.domain.profile import DataProfile
from autoswift.run.files import plain, write_atomic
from autoswift.run.record import RunRecord
from autoswift.tables import text

if TYPE_CHECKING:
    from jinja2 import Environment

    from autoswift.report.data_shown import Section


def build(record: RunRecord, language: str) -> str:
    """The report as HTML.

    Args:
        record: a run in any state; sections whose stage is missing say why.
        language: `zh` or `en`.
    """
    from autoswift.report.context import context

    return environment_of(language).get_template("report.html.j2").render(context(record, language))


def write(record: RunRecord, language: str, path: Path | None = None) -> Path:
    """Writes the report, by default to `report.html` in the run folder.

    Returns:
        Where it lies.
    """
    target = (path or record.folder / "report.html").expanduser().resolve()
    write_atomic(target, build(record, language))
    return target


def data_page(
    profile: DataProfile, language: str, *, sourced: Mapping[str, Any] | None = None, command: str = ""
) -> str:
    """What became of a data file, as HTML.

    Args:
        profile: what the file holds.
        language: `zh` or `en`.
        sourced: where it came from, when a hub or a teacher gave it, as its JSON value.
        command: that looks again with other columns.
    """
    from autoswift.report.data import section

    return _data_page(section(plain(profile), language), sourced, command)


def write_data_page(
    profile: DataProfile,
    path: Path,
    language: str,
    *,
    sourced: Mapping[str, Any] | None = None,
    command: str = "",
) -> Path:
    """Writes the page of a data file; arguments as in `data_page`.

    Returns:
        Where it lies.
    """
    return _written(path, data_page(profile, language, sourced=sourced, command=command))


def write_refusal_page(problems: Sequence[object], name: str, path: Path, language: str) -> Path:
    """Writes the page of data that cannot be used: its problems, the worst first.

    Args:
        problems: of the error that ended the reading.
        name: of the data, as the user gave it.
        path: of the page.
        language: `zh` or `en`.

    Returns:
        Where it lies.
    """
    from autoswift.report.data import refused

    return _written(path, _data_page(refused(plain(list(problems)), name, language), None, ""))


def _data_page(shown: Section, sourced: Mapping[str, Any] | None, command: str) -> str:
    from autoswift.report.data import drawn
    from autoswift.report.origin import origin

    values = {"data": drawn(shown, command), "origin": origin(sourced, shown.language)}
    return environment_of(shown.language).get_template("data_page.html.j2").render(values)


def _written(path: Path, html: str) -> Path:
    target = path.expanduser().resolve()
    write_atomic(target, html)
    return target


def environment_of(language: str) -> Environment:
    """Templates with the texts of a language."""
    import jinja2

    from autoswift.report import words

    def say(key: str, **values: Any) -> str:
        return text(f"report.{key}", language, **values)

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,  # everything from the data is foreign
        undefined=jinja2.ChainableUndefined,  # an older record lacks a field: that is a gap, not a crash
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"t": say, "language": language}
    environment.filters |= {
        "number": words.number,
        "signed": words.signed,
        "size": words.size,
        "duration": lambda seconds: words.duration(seconds, language),
        "value": lambda shown: words.value(shown, language),
        "named": lambda name, group: words.named(group, str(name), language),
    }
    return environment


def _template(name: str) -> str:
    return files("autoswift.report").joinpath("templates", name).read_text(encoding="utf-8")

"""Record in, HTML out. The page has no script and asks for nothing outside itself."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from autoswift.run.files import write_atomic
from autoswift.run.record import RunRecord
from autoswift.tables import text


def build(record: RunRecord, language: str) -> str:
    """The report as HTML.

    Args:
        record: a run in any state; sections whose stage is missing say why.
        language: `zh` or `en`.
    """
    import jinja2

    from autoswift.report import words
    from autoswift.report.context import context

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
    return environment.get_template("report.html.j2").render(context(record, language))


def write(record: RunRecord, language: str, path: Path | None = None) -> Path:
    """Writes the report, by default to `report.html` in the run folder.

    Returns:
        Where it lies.
    """
    target = (path or record.folder / "report.html").expanduser().resolve()
    write_atomic(target, build(record, language))
    return target


def _template(name: str) -> str:
    return files("autoswift.report").joinpath("templates", name).read_text(encoding="utf-8")

"""What is unusual about a machine, as a short code in the profile and as a sentence for people."""

from __future__ import annotations

from autoswift.tables import has_text, text


def note(kind: str, **values: object) -> str:
    """A note for `HardwareProfile.notes`: `kind;name=value;…`, free of language."""
    return ";".join([kind, *(f"{name}={str(value).replace(';', ',')}" for name, value in values.items())])


def note_text(value: str, language: str) -> str:
    """The note as a sentence.

    Args:
        value: a note; one that was written by hand is given back as it is.
        language: zh or en.
    """
    kind, *pairs = value.split(";")
    key = f"hardware.note.{kind}"
    if not has_text(key, language):
        return value
    return text(key, language, **dict(pair.split("=", 1) for pair in pairs if "=" in pair))

"""Numbers, durations, sizes and values as a person reads them."""

from __future__ import annotations

import math
from typing import Any

from autoswift.tables import has_text, text

NOTHING = "–"
_ELSEWHERE = {"symptom": "recover"}
"""Groups of words whose texts another room owns."""


def number(value: Any, digits: int = 3) -> str:
    """A number to `digits` significant digits, never in a form that needs a second look; `–` when there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return NOTHING
    if value == 0 or isinstance(value, int):
        return f"{int(value):,}"
    size = abs(value)
    if size < 1e-3 or size >= 1e9:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        trimmed = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{trimmed}e{int(exponent)}"
    places = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:,.{places}f}"


def signed(value: Any) -> str:
    """A difference with its sign."""
    shown = number(value)
    return shown if shown == NOTHING or shown.startswith("-") else f"+{shown}"


def percent(share: Any, language: str) -> str:
    """A share of 0 to 1 in per cent; never 0 for what is there."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share):
        return NOTHING
    shown = f"{share * 100:.1f}".removesuffix(".0")
    shown = "<0.1" if shown == "0" and share > 0 else ">99.9" if shown == "100" and share < 1 else shown
    return f"{shown}%" if language == "zh" else f"{shown} %"


def duration(seconds: Any, language: str) -> str:
    """Seconds as a person says them."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return NOTHING
    if seconds < 10:
        return text("report.unit.seconds", language, n=f"{seconds:.1f}")
    whole = round(seconds)
    if whole < 60:
        return text("report.unit.seconds", language, n=whole)
    if whole < 3600:
        return text("report.unit.minutes", language, m=whole // 60, s=whole % 60)
    return text("report.unit.hours", language, h=whole // 3600, m=whole % 3600 // 60)


def size(amount: Any) -> str:
    """Bytes in binary units."""
    if isinstance(amount, bool) or not isinstance(amount, int | float) or amount <= 0:
        return NOTHING
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return (
                f"{amount:.0f} {unit}"
                if unit == "B"
                else f"{amount:.3g} {unit}"
                if amount < 100
                else f"{amount:.0f} {unit}"
            )
        amount /= 1024
    return f"{amount:.1f} GiB"


def value(shown: Any, language: str) -> str:
    """A setting's value on one line."""
    if shown is None or shown == "":
        return NOTHING
    if isinstance(shown, bool):
        return text("yes" if shown else "no", language)
    if isinstance(shown, float):
        found = number(shown)
        return found.rstrip("0").rstrip(".") if "." in found and "e" not in found else found
    if isinstance(shown, int):
        return f"{shown:,}" if abs(shown) >= 10_000 else str(shown)
    if isinstance(shown, list | tuple):
        return ", ".join(value(item, language) for item in shown) or NOTHING
    if isinstance(shown, dict):
        return ", ".join(f"{name} {value(item, language)}" for name, item in shown.items()) or NOTHING
    return str(shown)


def named(group: str, name: str, language: str) -> str:
    """The readable name of a word of the record (a stage, a metric, a reason), or the word itself when it has none."""
    for key in (f"report.{group}.{name}", f"{_ELSEWHERE.get(group, 'report')}.{group}.{name}"):
        if has_text(key, language):
            return text(key, language)
    return name.replace("_", " ")


def named_by(key: str, name: str, language: str) -> str:
    """The text of a whole key where the catalogue has it, else the word itself."""
    return text(key, language) if has_text(key, language) else name.replace("_", " ")


def note(row: dict[str, Any], language: str) -> str:
    """What a `note` event says: its own text, or a text of the catalogue with its values."""
    key = str(row.get("key", ""))
    if key and has_text(key, language):
        return text(key, language, **dict(row.get("values") or {}))
    return str(row.get("text", key))

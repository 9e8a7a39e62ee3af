"""Pieces of rows for a person to see, in one line and with personal data blotted out."""

from __future__ import annotations

import json
from typing import Any

from autoswift.understand import flags
from autoswift.understand.clean import Row, row_text
from autoswift.understand.text import excerpt, first_difference


def said(value: Any) -> str:
    """A record for a person to see."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return excerpt(flags.masked(text))


def change(before: Row, after: Row) -> tuple[str, str]:
    """The place where two forms of a row differ first, in both."""
    old = [t["content"] for t in before["messages"]]
    new = [t["content"] for t in after["messages"]]
    if len(old) != len(new):  # turns were joined or cut
        shown = [" ¶ ".join(f"{t['role']}: {t['content']}" for t in row["messages"]) for row in (before, after)]
    else:
        shown = next(([a, b] for a, b in zip(old, new, strict=True) if a != b), [row_text(before), row_text(after)])
    left, right = map(flags.masked, shown)
    at = first_difference(left, right)
    return excerpt(left, at), excerpt(right, at)


def marked(row: Row, kind: str) -> str:
    """The part of a row that a mark is about."""
    text = flags.masked(row["messages"][-1]["content"] if kind.startswith("degenerate") else row_text(row))
    if kind == "pii":
        return excerpt(text, max(0, text.find(flags.MASK)))
    found = flags.INJECTION.search(text) if kind == "prompt_injection" else None
    return excerpt(text, found.start() if found else 0)

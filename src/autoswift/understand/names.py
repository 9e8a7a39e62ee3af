"""What file names say about their contents."""

from __future__ import annotations

import re
from functools import cache

from autoswift.tables import table

_ENDING = re.compile(r"\.[a-z0-9]{1,8}(\.(?:gz|gzip|bz2|xz))?$")
_WORD = re.compile(r"[a-z]+|[\u4e00-\u9fff]+")


@cache
def _splits() -> dict[str, str]:
    names = table("understand")["splits"]
    return {str(alias): split for split, aliases in names.items() for alias in aliases}


def split_name(path: str) -> str | None:
    """The split that a name stands for: train, validation or test; None when it says nothing.

    Args:
        path: of a file, or a key. The file's own name counts before its folders' names, its first or last word only:
            "unit-test-generation.jsonl" is no test set.
    """
    for part in reversed(re.split(r"[/\\]", path.lower())[-3:]):
        stem = _ENDING.sub("", part)
        words = [w for w in _WORD.findall(stem) if w not in ("of", "part", "shard")]
        for word in words[:1] + words[-1:]:
            ending = next((alias for alias in _splits() if not alias.isascii() and word.endswith(alias)), "")
            if word in _splits() or len(ending) > 2:
                return _splits().get(word) or _splits()[ending]
    return None

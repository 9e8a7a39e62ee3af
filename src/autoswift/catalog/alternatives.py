"""A model of the catalogue in place of one that is refused."""

from __future__ import annotations

import math
import re

from autoswift.catalog.models import ModelFacts, all_models, catalog
from autoswift.tables import told

_SIZE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s?b(?![a-z])", re.IGNORECASE)
_DOMAINS = {
    "medical": re.compile(r"(?<![a-z])(bio|pub)?med(?!ium|ia)|huatuo|doctor|clinic|health|zhongjing|bentsao|医"),
    "legal": re.compile(r"(?<![a-z])(law|legal)|lawyer|lawgpt|法律"),
    "finance": re.compile(r"(?<![a-z])fin(?!al|e)|finance|financ|xuanyuan|cfgpt|金融"),
    "code": re.compile(r"(?<![a-z])code|coder"),
    "math": re.compile(r"(?<![a-z])math|numina"),
}
"""Parts of names by which a model says what it is for."""


def alternative(name: str, parameters: int = 0) -> ModelFacts | None:
    """The model of the catalogue nearest to a refused one: of its domain when it names one, else of its size.

    Args:
        name: hub id, folder's name or catalogue name.
        parameters: when known; else the name's own "7B" is taken.

    Returns:
        None when the catalogue has nothing that can be used.
    """
    known = next((m for m in catalog() if name.lower() in (m.id.lower(), m.hf.lower(), m.ms.lower())), None)
    domains = set(known.domains if known else ()) - {"general"}
    words = name.lower().rpartition("/")[2]
    domains |= {domain for domain, pattern in _DOMAINS.items() if pattern.search(words)}
    size = parameters or (known.parameters if known else 0) or _named_size(words)
    usable = [m for m in all_models() if not m.blocked and not m.gated and m.kind in ("chat", "base", "reasoning")]
    if known:
        usable = [m for m in usable if m.modality == known.modality] or usable
    if not usable:
        return None

    def distance(one: ModelFacts) -> tuple[int, float, str]:
        off = abs(math.log(max(one.parameters, 1) / size)) if size else -float(one.parameters)
        return -len(domains & set(one.domains)), off, one.id

    return min(usable, key=distance)


def instead_of(name: str, parameters: int = 0) -> str:
    """The alternative in words, for the end of an error's advice; empty when there is none."""
    found = alternative(name, parameters)
    return told("error.trust.instead", model=found.id) if found else ""


def _named_size(name: str) -> float:
    found = _SIZE.search(name)
    return float(found[1]) * 1e9 if found else 0.0

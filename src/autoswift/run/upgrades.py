"""Records of earlier shapes as today's: what changed its form, not what was added with a default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plan_of_today(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's record; one of today's shape comes back as it is.

    The first shape told evidence as words alone, and when a decision would turn around as a sentence that names no
    fact: nothing can be supposed by it, so it is left out.
    """
    plan = dict(raw)
    plan["decisions"] = [_decision(one) for one in raw.get("decisions") or ()]
    if isinstance(raw.get("search"), Mapping):
        plan["search"] = {"answer_seconds": 0.0} | dict(raw["search"])
    return plan


def _decision(raw: Any) -> Any:
    if not isinstance(raw, Mapping):
        return raw
    said = raw.get("evidence") or ()
    evidence = [{"text": one} if isinstance(one, str) else one for one in said]
    turned = raw.get("reverse_when")
    return dict(raw) | {"evidence": evidence, "reverse_when": None if isinstance(turned, str) else turned}

"""Flipped bits and cuts in records, checkpoints and the knowledge base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from faults import flips
from faults.conftest import Tell

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    ("what", "cases"),
    [(flips.records, 200), (flips.checkpoints, 150), (flips.knowledge, 150)],
    ids=["records", "checkpoints", "knowledge"],
)
def test_each_is_noticed_or_harmless(
    what: Callable[[Path, int], flips.Damage], cases: int, autoswift_home: Path, tmp_path: Path, tell: Tell
) -> None:
    seen = what(autoswift_home if what is flips.knowledge else tmp_path, cases)
    assert sum(seen.cases.values()) == cases
    assert sum(seen.noticed.values()) + sum(seen.harmless.values()) == cases
    assert sum(seen.noticed.values()) > cases / 4
    kinds = ", ".join(f"{n} in {name}" for name, n in sorted(seen.cases.items()))
    tell(
        f"{cases} flipped bits and cuts ({kinds}): {sum(seen.noticed.values())} noticed,"
        f" {sum(seen.harmless.values())} without any effect, 0 used silently"
    )

"""stub"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autoswift.domain.plan import ModelChoice

Progress = Callable[[str, int, int], None]
"""Called with (what, bytes done, bytes in all; 0 when unknown)."""


def fetch(choice: ModelChoice, into: Path, progress: Progress | None = None) -> tuple[Path, dict[str, str]]:
    """Stages the model's safe files in `into`; returns (folder, file name to SHA-256)."""
    raise NotImplementedError

"""stub"""

from __future__ import annotations

from pathlib import Path

from autoswift.catalog.models import ModelFacts


def inspect_folder(path: Path) -> ModelFacts:
    """Facts of a local model folder. ModelError when it cannot be used safely."""
    raise NotImplementedError

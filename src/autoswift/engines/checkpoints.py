"""Checkpoints of trainings: sealed when they are complete, checked before they are gone on from or promoted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoswift.domain.trial import Trial
from autoswift.run.files import Damaged, digest
from autoswift.run.manifest import facts_of, flaw, newest_whole, step_of

EVERY_SECONDS = 300.0
"""Between two checkpoints of an adapter's training: a kill costs at most so much, and a save takes under a second."""

STATE = "trainer_state.json"
"""What a checkpoint has beside the weights when a training can go on from it."""


def checkpoint_seconds(settings: Mapping[str, Any]) -> float:
    """How often a training saves what it needs to go on; 0 for never.

    Whole models are not saved so: with the optimizer's state that is 16 bytes a weight, minutes of writing each time.
    """
    if "checkpoint_seconds" in settings:
        return float(settings["checkpoint_seconds"] or 0.0)
    return 0.0 if settings.get("method") == "full" else EVERY_SECONDS


def identity_of(settings: Mapping[str, Any]) -> str:
    """What two attempts must have in common so that one can go on from the other's checkpoint."""
    return digest({k: v for k, v in settings.items() if k not in ("checkpoint_seconds", "generation_batch_size")})


def beginning(folder: Path, trial: Trial, settings: Mapping[str, Any], given: Path | None) -> tuple[Path | None, str]:
    """The checkpoint that an attempt begins with, and what was wrong with those that it does not.

    The one it was given, when it is whole; else the newest whole one that an earlier attempt with the same settings
    left; else none: the training begins anew.

    Args:
        folder: of the run. trial: the attempt. settings: in force. given: relative to the run folder.
    """
    words = ""
    if given is not None:
        words = flaw(folder / given)
        if not words:
            return folder / given, ""
        words = f"{given}: {words}"
    if trial.attempt == 1:
        return None, words
    found, flaws = newest_whole(_left(folder, trial, settings))
    torn = [f"{os.path.relpath(path, folder)}: {why}" for path, why in flaws.items()]
    return found, "; ".join([words, *torn] if words else torn)


def _left(folder: Path, trial: Trial, settings: Mapping[str, Any]) -> list[Path]:
    """Checkpoints of earlier attempts from which this one could go on if they are whole."""
    found, identity, last = [], identity_of(settings), int(settings["max_steps"])
    for path in (folder / "trials" / str(trial.number)).glob("attempt-*/output/checkpoint-*"):
        number = path.parent.parent.name.removeprefix("attempt-")
        if not number.isdigit() or int(number) >= trial.attempt or not 0 < step_of(path) < last:
            continue
        try:
            facts = facts_of(path)
        except (Damaged, OSError):
            found.append(path)  # told as torn; it is never gone on from
            continue
        if facts.get("settings") == identity and (path / STATE).is_file():
            found.append(path)
    return found

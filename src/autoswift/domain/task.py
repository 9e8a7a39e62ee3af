"""What the user asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from autoswift.domain.budget import Budget

Target = Literal["auto", "local", "none"]
Language = Literal["zh", "en"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request.

    Attributes:
        sentence: what the model is to do, in the user's words.
        data: absolute path of the data file, or None.
        columns: role to column name, as given by the user ("user", "assistant", "system", …).
        test, validation: absolute paths of the user's own sets, or None: then they are split off the data.
        redact: personal data is masked before anything is trained on it.
        facts: what the user says of the task themselves (goal, domain, language, modality, deploy).
        model: a hub id, a name from the catalogue or a folder, as given by the user; None lets the plan choose.
        budget: what may be spent.
        target: where the result is served; `none` stops after the merge and its evaluation.
        seed: of every random choice.
        full: lifts the demonstration's cap on trained tokens.
        language: of what people read in the run's texts.
        knowledge: whether what earlier runs taught bears on the plan.
        probe: how many of the best models are trained a few steps before one is taken; 0 takes the first.
        allow_truncate: rows may be cut shorter when nothing else makes a training fit: the user's consent.
        options: settings the user fixed explicitly, by their name in the plan (they become decisions of source `user`).
    """

    sentence: str
    data: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    test: str | None = None
    validation: str | None = None
    redact: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    budget: Budget = field(default_factory=Budget)
    target: Target = "auto"
    seed: int = 0
    full: bool = False
    language: Language = "en"
    options: dict[str, str | int | float | bool] = field(default_factory=dict)
    knowledge: bool = True
    probe: int = 0
    allow_truncate: bool = False

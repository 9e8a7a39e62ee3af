"""What a task asks of a base model, as a value that can be compared and remembered."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from autoswift.catalog.availability import Availability
from autoswift.decide.inputs import Inputs
from autoswift.domain.profile import TaskProfile
from autoswift.hardware.margins import Margin
from autoswift.tables import has_text, table, text


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence as data: the text's name below `decide.recommend.`, and what fills it."""

    code: str
    values: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, code: str, **values: Any) -> Reason:
        """A reason with its values in order of their names."""
        return cls(code, tuple(sorted(values.items())))

    def words(self, language: str) -> str:
        """The sentence."""
        filled = {key: value.words(language) if isinstance(value, Word | Both) else value for key, value in self.values}
        return text(f"decide.recommend.{self.code}", language, **filled)


@dataclass(frozen=True, slots=True)
class Word:
    """A word that reads differently in each language, as `Word("report.word.domain", "medical")`."""

    group: str
    name: str

    def words(self, language: str) -> str:
        """It, in the language; a word that has no translation stays as it is."""
        key = f"{self.group}.{self.name}"
        return text(key, language) if has_text(key, language) else self.name


@dataclass(frozen=True, slots=True)
class Both:
    """A phrase of a table, in both languages."""

    en: str
    zh: str

    def words(self, language: str) -> str:
        """It, in the language."""
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeBox:
    """Where a model for the edge shall run.

    Attributes:
        memory_bytes: of it. usable: the share that a model may take. bandwidth: GB/s. cuda: whether it has a CUDA GPU
            that today's engines support.
    """

    id: str
    memory_bytes: int
    usable: float
    bandwidth: float
    cuda: bool
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What the choice must keep to, beside the profile.

    Attributes:
        availability: where models can be had from; None asks nothing of them.
        language: of the data; empty: the profile's.
        length: tokens of a row, for the memory of training.
        longest: tokens of the longest row: where not one of them can be trained on, the model is out; 0 when unknown.
        seconds: wall-clock of the run.
        named: the user named the model: terms that must be accepted may be theirs to accept.
        margins: on the predicted memory of training, where trainings were measured.
    """

    availability: Availability | None = None
    language: str = ""
    length: int = 512
    longest: int = 0
    seconds: float = float("inf")
    named: bool = False
    margins: tuple[Margin, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What does not depend on the machine: two tasks with equal needs get equal scores."""

    goal: str = "chat"
    domain: str = "general"
    languages: tuple[str, ...] = ("en",)
    modality: str = "text"
    licence: str = ""
    parameters: float = 0.0
    quick: bool = False
    edge: bool = False
    sources: tuple[bool, bool, bool] = (True, True, True)
    named: bool = False


def need_of(profile: TaskProfile, constraints: Constraints) -> Need:
    """What the task asks of a model.

    Args:
        profile: what the sentence says.
        constraints: what data, machine and user add.
    """
    here = constraints.availability
    spoken = constraints.language or profile.constraints.get("answer_language", "") or profile.language
    cap = re.search(r"\d+(?:\.\d+)?", profile.constraints.get("parameters", ""))
    return Need(
        goal=profile.goal,
        domain=profile.domain,
        languages=("zh", "en") if spoken == "mixed" else (spoken,),
        modality=profile.modality,
        licence=profile.constraints.get("licence", ""),
        parameters=float(cap.group()) * 1e9 if cap else 0.0,
        quick="latency" in profile.constraints,
        edge=profile.deploy == "edge",
        sources=(here.huggingface, here.modelscope, here.packaged) if here else (True, True, True),
        named=constraints.named,
    )


def constraints_of(inputs: Inputs) -> Constraints:
    """The constraints that a plan's inputs hold."""
    return Constraints(
        availability=inputs.availability,
        language=inputs.data.language,
        longest=_longest(inputs),
        seconds=inputs.task.budget.seconds,
        named=bool(inputs.task.model),
        margins=inputs.margins,
    )


def _longest(inputs: Inputs) -> int:
    """Tokens of the longest row that is trained on, about.

    Characters count, also once tokens are known: a later plan is to see the same candidates.
    """
    rules, data = table("rules"), inputs.data
    chinese, latin = (float(rules["tokens"][script]) for script in ("cjk_native", "latin"))
    row = data.characters.max * (data.cjk_share * chinese + (1 - data.cjk_share) * latin)
    said = inputs.task.options.get("max_length")
    most = said if isinstance(said, int) and said > 0 else int(rules["length"]["largest"])
    step = int(rules["length"]["step"])
    return int(min(math.ceil(row / step) * step, most))


def edge_box(profile: TaskProfile) -> EdgeBox:
    """The box that the sentence names, or a small one that is assumed."""
    said = " ".join(profile.hardware).lower()
    for row in table("recommend")["edge"]["boxes"]:
        if any(word in said for word in row["words"]):
            return EdgeBox(
                id=row["id"],
                memory_bytes=int(float(row["memory_gib"]) * 2**30),
                usable=float(row["usable"]),
                bandwidth=float(row["bandwidth"]),
                cuda=bool(row["cuda"]),
                source=str(row["source"]),
            )
    raise ValueError("tables/recommend.yaml: the last of the boxes must fit everything")

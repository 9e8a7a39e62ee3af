"""The fingerprint of a task: the same from a plan that is being made and from a run that is over."""

from __future__ import annotations

from autoswift.domain.plan import ModelChoice
from autoswift.domain.profile import DataProfile, Device, TaskProfile
from autoswift.knowledge.entry import Fingerprint
from autoswift.knowledge.schema import device_name


def fingerprint(
    profile: TaskProfile,
    data: DataProfile,
    device: Device,
    model: ModelChoice | None = None,
    method: str = "",
    sentence: tuple[str, str] = ("", ""),
) -> Fingerprint:
    """A task as words and counts.

    Args:
        model: None while none is chosen. A folder of the user's is told by its type, not by its name.
        method: empty while none is chosen.
        sentence: the encoder's name and the packed embedding; both empty where there is none.
    """
    named = "" if model is None else model.model_type if model.source == "folder" else model.id
    return Fingerprint(
        goal=profile.goal,
        language=data.language,
        domain=profile.domain,
        modality=profile.modality,
        rows=data.conversations,
        characters=round(float(data.characters.mean), 1),
        answer_characters=round(float(data.answer_characters.mean), 1),
        turns_mean=round(float(data.turns_mean), 2),
        labels=len(data.labels),
        model=named,
        parameters=0 if model is None else model.parameters,
        method=method,
        device=device_name(device.name),
        memory_gib=round(device.memory_bytes / 2**30, 1),
        encoder=sentence[0],
        embedding=sentence[1],
    )

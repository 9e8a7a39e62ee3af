"""The answers to a symptom: each a change of settings that never touches the effective batch size.

Two rules hold for all. What the user fixed is not changed. Nothing that failed is tried again unchanged, unless the
cause lay outside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoswift.domain.decision import Alternative, Decision, Evidence
from autoswift.domain.protocols import Remedy, Symptom
from autoswift.hardware.margins import FLOOR
from autoswift.recover.diagnose import ladder
from autoswift.recover.ladder import RUNGS, Situation, Step, climb, is_fixed
from autoswift.tables import has_text, text

REMEDIES = RUNGS

MAX_ATTEMPTS = 3
"""Attempts of one configuration for one kind of cause. The second change may be a large one; what still fails after it
is another plan's business."""

MAX_REPEATS = 2
"""Repeats after a transient fault: a third in a row points to a lasting cause."""
HANG_REPEATS = 1
"""A hang takes its whole silence on the device each time."""
FIRST_WAIT = {"device_taken": 30.0, "hub_failure": 10.0, "nccl_timeout": 10.0, "device_lost": 20.0, "node_lost": 5.0}
"""Seconds before the first repeat, doubled for each further one: about what it takes for a process to go, a hub or a
device to come back."""
USUAL_WAIT = 2.0

KINDS = {
    "device_out_of_memory": "memory",
    "host_out_of_memory": "memory",
    "nan": "numbers",
    "nan_gradient": "numbers",
    "zero_loss": "numbers",
    "divergence": "numbers",
    "gradients_growing": "numbers",
}
"""Symptoms that are counted together."""
BY_RATE = frozenset({"nan", "nan_gradient", "zero_loss", "divergence", "flat"})
OF_ALL = frozenset({"bf16_for_fp16"})
"""Of the answers to numbers that went wrong, those that are no matter of the rate: a search's trial gets them too."""
OWN = frozenset({"tighter_clip", "lower_rate", "warm_up", "repeat"})
"""Remedies of one training alone; all others hold for every later one too."""

FITS = 0.97
"""Share of the room that the corrected need may take at the second attempt, the planner's own share of a card: a third
attempt is left, and a step that is larger than need be makes every later one slower."""
LAST = 0.9
"""Of what costs no quality, at the last attempt: rows differ, and so does the allocator."""
SURELY = 0.6
"""At the last one: twice the model was wrong, so a good part stays free."""
BLINDLY = 0.75
"""At the last one, of what costs no quality, where no message has told how much was missing."""


def kind_of(symptom: str) -> str:
    """What failures are counted by: memory, numbers, or the symptom itself."""
    return KINDS.get(symptom, symptom)


def by_rate(symptom: str | None) -> bool:
    """Whether a failure says that rates near it fail too; a lack of memory does not."""
    return symptom in BY_RATE


def repeats(symptom: str) -> int:
    """How often the same configuration is tried again after a transient fault."""
    return HANG_REPEATS if symptom == "hang" else MAX_REPEATS


def remedy(symptom: Symptom, situation: Situation) -> Remedy | None:
    """What is changed for the next attempt, or None when nothing may be or nothing is left.

    Args:
        symptom: what went wrong. situation: of the training.
    """
    if symptom.transient:
        return _again(symptom, situation) if situation.tried <= repeats(symptom.name) else None
    steps = left(symptom, situation)
    if not steps or situation.tried >= MAX_ATTEMPTS:
        return None
    chosen = _chosen(steps, situation, kind_of(symptom.name))
    return answer(symptom, situation, chosen, steps[: steps.index(chosen)])


def left(symptom: Symptom, situation: Situation) -> list[Step]:
    """The places on the ladder that are still to be taken, in order."""
    names = [name for name in ladder(symptom) if name not in ("repeat", "smaller_model")]
    if symptom.name == "gradients_growing":  # only a warning in the table: here a training was stopped for it
        names = ladder(Symptom(name="divergence", evidence=""))
    if kind_of(symptom.name) == "numbers" and not situation.final:
        names = [name for name in names if name in OF_ALL]
    return list(climb(names, situation))


def early(symptom: Symptom, situation: Situation) -> Remedy | None:
    """What later trainings change after a warning: one step that costs no quality, or None."""
    names = ("halve_micro_batch", "checkpoint_activations", "fused_loss")
    step = next(climb(names, situation), None)
    return answer(symptom, situation, step) if step else None


def blocked(symptom: Symptom, situation: Situation) -> list[str]:
    """Rungs that might have helped and were not the program's to take: fixed by the user, or without consent."""
    found = []
    for name in ladder(symptom):
        if name in ("repeat", "smaller_model"):
            continue
        if is_fixed(name, situation):
            if RUNGS[name](situation.settings, situation.recovery) is not None:
                found.append(name)
        elif name == "shorter_length" and not situation.recovery.allow_truncate:
            found.append(name)
    return found


def _chosen(steps: Sequence[Step], situation: Situation, kind: str) -> Step:
    """The smallest step that is enough; after a first that was not, one that surely is."""
    last = situation.tried + 1 >= MAX_ATTEMPTS
    plain = [one for one in steps if not one.downgrades]
    memory = situation.memory
    if kind != "memory" or memory is None or not memory.believed:
        return (plain[-1] if plain else steps[0]) if last else steps[0]
    enough = SURELY if last else FITS
    good = next((one for one in plain if one.share <= enough), None)
    most = 1.0 / FLOOR if not last else LAST if memory.exact else BLINDLY
    if good is None and plain and plain[-1].share <= most:
        good = plain[-1]  # quality is given up only where nothing else can do
    return good or next((one for one in steps if one.share <= enough), steps[-1])


def _again(symptom: Symptom, situation: Situation) -> Remedy:
    wait = FIRST_WAIT.get(symptom.name, USUAL_WAIT) * 2.0 ** (situation.tried - 1)
    language = situation.language
    because = _because(symptom, [text("recover.because.repeat", language, seconds=f"{wait:g}")], language)
    shown = Evidence(text=text("recover.repeat", language))
    seen = Evidence(text=symptom.evidence, fact="symptom", value=symptom.name)
    decision = Decision(
        name=f"recovery.{symptom.name}", value="repeat", because=because, evidence=(seen, shown), source="measurement"
    )
    return Remedy(symptom=symptom, changes={}, decision=decision, names=("repeat",), wait_seconds=wait)


def answer(symptom: Symptom, situation: Situation, step: Step, passed: Sequence[Step] = ()) -> Remedy:
    """A step as the answer to a symptom, with its decision.

    Args:
        symptom: what went wrong. situation: of the training.
        step: that is taken. passed: smaller ones that were not.
    """
    language, settings = situation.language, situation.settings
    before = {name: settings.get(name) for name in step.changes}
    shown = ", ".join(f"{k}: {before[k]} → {v}" for k, v in step.changes.items() if k != "flags")
    evidence = [Evidence(text=symptom.evidence, fact="symptom", value=symptom.name)]
    if shown:
        evidence.append(Evidence(text=shown))
    memory = situation.memory
    if memory is not None and memory.believed and kind_of(symptom.name) == "memory":
        need = text("recover.need", language, share=f"{100 * step.share:.0f}", room=f"{memory.room / 2**30:.2f}")
        evidence.append(Evidence(text=need, fact="share_of_room", value=round(step.share, 3)))
    words = [text(f"recover.because.{name}", language) for name in step.names]
    decision = Decision(
        name=f"recovery.{symptom.name}",
        value=step.changes,
        because=_because(symptom, words, language),
        evidence=tuple(evidence),
        alternatives=(*_passed(passed, language), *_not_ours(symptom, situation)),
        source="measurement",
    )
    return Remedy(
        symptom=symptom,
        changes=step.changes,
        decision=decision,
        before=before,
        names=step.names,
        standing=standing(step),
        downgrades=step.downgrades,
    )


def standing(step: Step) -> dict[str, Any]:
    """What of a step every later trial takes over. Batches may differ, so that of the micro-batch it is the limit."""
    if all(name in OWN for name in step.names):
        return {}
    kept = {k: v for k, v in step.changes.items() if k != "gradient_accumulation_steps"}
    if "per_device_train_batch_size" in kept:
        kept["micro_batch_limit"] = kept.pop("per_device_train_batch_size")
    return kept


def _passed(passed: Sequence[Step], language: str) -> tuple[Alternative, ...]:
    """Smaller steps that were passed over, each with the need that the memory model says."""
    return tuple(
        Alternative(
            value={k: v for k, v in one.changes.items() if k != "flags"},
            why_not=text("recover.not_enough", language, share=f"{100 * one.share:.0f}")
            if one.share
            else text("recover.not_sure", language),
        )
        for one in passed
    )


def _not_ours(symptom: Symptom, situation: Situation) -> tuple[Alternative, ...]:
    return tuple(
        Alternative(value=name, why_not=option(name, situation.language)) for name in blocked(symptom, situation)
    )


def option(name: str, language: str) -> str:
    """A rung that is the user's to take, in words."""
    return text(f"recover.option.{name}", language)


def _because(symptom: Symptom, words: Sequence[str], language: str) -> str:
    key = f"recover.symptom.{symptom.name}"
    named = text(key, language) if has_text(key, language) else symptom.name
    return text("recover.because", language, symptom=named, steps=("" if language == "zh" else " ").join(words))

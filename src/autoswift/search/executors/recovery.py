"""What one round knows of failures: counts them by kind, finds the remedy, and makes it hold for later trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event, Journal, Remedy, Symptom
from autoswift.domain.trial import FINAL_TRAINING, Trial
from autoswift.errors import InputError, ModelTooLarge
from autoswift.recover.diagnose import ladder
from autoswift.recover.ladder import Situation, Step, halve_answer_batch
from autoswift.recover.memory import MemoryModel
from autoswift.recover.remedies import answer, blocked, early, kind_of, left, option, remedy, repeats
from autoswift.recover.revise import adds, changed, merged, revised
from autoswift.search.configuration import settings_in_force
from autoswift.tables import explain, has_text, named

INTERRUPTED = "interrupted"
"""An attempt whose owner died: no failure of the trial."""
STABILISING = ("learning_rate", "max_grad_norm", "warmup_ratio", "precision")
"""Of a trial's own changes, those that the final training of its configuration takes over."""


class Recovery:
    """One round's memory of what went wrong.

    Args:
        plan: as the sessions have it. device: that trials run on; None where that is nobody's.
        journal: takes events. language: of decisions.
    """

    def __init__(self, plan: Plan, device: Device | None, journal: Journal, language: str) -> None:
        self.plan, self.journal, self.language = plan, journal, language
        self.in_force = plan
        self.memory = MemoryModel(plan, device)
        self.on_host = device is None or device.kind == "cpu" or device.unified
        self.standing: dict[str, Any] = {}
        self.failures: dict[int, list[str]] = {}
        self.wasted = 0.0
        self._warned: set[tuple[int, int, str]] = set()
        self._restore(journal.trials())

    def overrides(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """What an attempt is started with: what stands for all, and the trial's own."""
        both = merged(self.standing, own)
        limit = self.standing.get("micro_batch_limit")
        if limit is not None and int(both.get("per_device_train_batch_size", 0)) > int(limit):
            del both["per_device_train_batch_size"], both["gradient_accumulation_steps"]
        return both

    def inherited(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Of a trial's own changes, those without which its configuration does not train."""
        return {name: overrides[name] for name in STABILISING if name in overrides}

    def peak(self, trial: Trial, measured: float | None) -> None:
        """Takes a real peak in bytes: the next decision reckons with it."""
        if measured:
            self.memory.peak(settings_in_force(self.plan, trial), int(measured))

    def named(self, symptom: Symptom) -> Symptom:
        """The symptom as it is to be answered: what others hold since before the plan is not theirs to give back."""
        if symptom.name == "device_taken" and self.memory.as_planned(symptom.evidence):
            return replace(symptom, name="device_out_of_memory", transient=False)
        return symptom

    def cure(self, trial: Trial, symptom: Symptom, *, final: bool, may_repeat: bool) -> tuple[Symptom, Remedy | None]:
        """What the next attempt changes, or None.

        Args:
            trial: that failed. symptom: of it.
            final: nothing is compared with this training.
            may_repeat: the budget has room for another attempt.

        Returns:
            The symptom that was answered (a device that stays taken becomes one that is too small), and the answer.
        """
        history = self.failures.setdefault(trial.number, [])
        taken = sum(name == symptom.name for name in history)
        if symptom.name == "device_taken" and taken >= repeats("device_taken") - 1:
            symptom = replace(symptom, name="device_out_of_memory", transient=False)  # they stay
        history.append(symptom.name)
        settings = settings_in_force(self.plan, trial)
        if kind_of(symptom.name) == "memory":
            self.memory.ran_out(settings, symptom.evidence)
        situation = self._situation(settings, history, symptom, final=final)
        return symptom, remedy(symptom, situation) if may_repeat else None

    def ended(self, number: int) -> None:
        """A trial (or a rung of one) ended for good: its failures are counted anew."""
        self.failures.pop(number, None)

    def tell(self, trial: Trial, found: Remedy, seconds: float) -> None:
        """Writes a remedy down; what holds for all later trials becomes a revision of the plan.

        Args:
            trial: that failed. seconds: device-seconds that the failed attempt took for nothing.
        """
        revision = self._stand(trial, found)
        self.journal.event(
            "remedy",
            trial=trial.number,
            attempt=trial.attempt,
            decision=found.decision,
            changes=found.changes,
            before=found.before,
            remedies=found.names,
            downgrades=found.downgrades,
            wait_seconds=found.wait_seconds,
            wasted_device_seconds=round(seconds, 3),
            revision=revision,
        )

    def warned(self, trial: Trial, event: Event) -> str:
        """Takes an early warning and acts before the crash.

        Returns:
            `tighten` where the trial should be stopped and go on with tamer steps, else an empty text.
        """
        key = (trial.number, trial.attempt, event.symptom)
        if key in self._warned:
            return ""
        self._warned.add(key)
        words = str(event.evidence.get("text") or f"step {event.step}")
        self.journal.event(
            "symptom", trial=trial.number, attempt=trial.attempt, symptom=event.symptom, evidence=words, warning=True
        )
        symptom = Symptom(name=event.symptom, evidence=words)
        if event.symptom == "memory_high" or (event.symptom == "host_memory_high" and self.on_host):
            self._act_early(trial, symptom)
        elif event.symptom == "validation_out_of_memory":
            self._fewer_answers(trial, symptom, event.metrics.get("generation_batch_size"))
        elif event.symptom == "gradients_growing" and trial.number == FINAL_TRAINING:
            # Once: what is alarming after it was tamed is ended by the divergence itself, if it comes.
            tame = not self.failures.get(trial.number) and "max_grad_norm" not in self.plan.fixed
            return "tighten" if tame else ""
        return ""

    def stop_for_user(self, trial: Trial, symptom: Symptom, *, final: bool) -> None:
        """Ends the run where nothing that recovery may change is left, with what somebody else may.

        Raises:
            InputError: what the user fixed stands in the way.
            ModelTooLarge: a smaller model may be taken.
        """
        situation = self._situation(settings_in_force(self.plan, trial), [symptom.name], symptom, final=final)
        if symptom.transient or left(symptom, situation):
            return
        found = blocked(symptom, situation)
        needs_smaller = "smaller_model" in ladder(symptom)
        if needs_smaller:
            found.append("any_smaller")
        if not found:
            return
        listed = "\n".join(f"- {option(name, self.language)}" for name in found)
        key = f"recover.symptom.{symptom.name}"
        words = named("recover.symptom", symptom.name) if has_text(key, "en") else symptom.name
        self.journal.event("gave_up", trial=trial.number, attempt=trial.attempt, symptom=symptom.name, options=found)
        said = {"symptom": words, "evidence": symptom.evidence, "options": listed}
        if needs_smaller and self.plan.recovery.other_model:
            raise ModelTooLarge(*explain("recover.too_large", model=self.plan.model.id, **said))
        raise InputError(*explain("recover.fixed", **said))

    def _situation(self, settings: dict[str, Any], history: list[str], symptom: Symptom, *, final: bool) -> Situation:
        kind = kind_of(symptom.name)
        return Situation(
            settings=settings,
            recovery=self.plan.recovery,
            fixed=self.plan.fixed,
            memory=self.memory,
            tried=sum(kind_of(name) == kind for name in history),
            final=final,
            language=self.language,
        )

    def _act_early(self, trial: Trial, symptom: Symptom) -> None:
        settings = settings_in_force(self.plan, trial)
        situation = self._situation(settings, [], symptom, final=False)
        found = early(symptom, situation)
        if found is not None and adds(self.in_force, found.standing):
            self.tell(trial, found, 0.0)

    def _fewer_answers(self, trial: Trial, symptom: Symptom, size: float | None) -> None:
        """The size that worked in the end, or half of what did not, holds for later trials."""
        settings = settings_in_force(self.plan, trial)
        changes = {"generation_batch_size": int(size)} if size else halve_answer_batch(settings)
        if changes is None or not adds(self.in_force, changes):
            return
        found = early_answer(symptom, settings, changes, self.language)
        self.tell(trial, found, 0.0)

    def _stand(self, trial: Trial, found: Remedy) -> int | None:
        """Makes a remedy hold for later trials.

        Returns:
            The number of the revision, or None where the plan says so already or it is this trial's own.
        """
        if not found.standing or not adds(self.in_force, found.standing):
            return None
        new = revised(self.in_force, found, self.language)
        self.journal.revise(new)
        self.journal.trial(
            "revised",
            trial.number,
            attempt=trial.attempt,
            revision=new.revision,
            changes=found.standing,
            model=self.plan.model.id,
        )
        self.in_force, self.standing = new, merged(self.standing, found.standing)
        return new.revision

    def _restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """What earlier owners of the run learnt: revisions, and the failures of trials that have not ended."""
        for line in rows:
            number = int(line["trial"])
            if line["event"] == "revised":
                if line.get("model", self.plan.model.id) == self.plan.model.id:
                    self._revised_before(line)
            elif line["event"] == "ended":
                symptom = (line.get("outcome") or {}).get("symptom")
                if line.get("final", True):
                    self.failures.pop(number, None)
                elif symptom and symptom != INTERRUPTED:
                    self.failures.setdefault(number, []).append(str(symptom))

    def _revised_before(self, line: Mapping[str, Any]) -> None:
        changes, revision = dict(line["changes"]), int(line["revision"])
        self.standing = merged(self.standing, changes)
        new = changed(self.in_force, changes)
        self.in_force = replace(new, revision=max(revision, self.in_force.revision))


def early_answer(symptom: Symptom, settings: Mapping[str, Any], changes: dict[str, Any], language: str) -> Remedy:
    """The remedy that makes fewer answers at a time the plan's."""
    situation = Situation(settings=settings, language=language)
    return answer(symptom, situation, Step(names=("halve_answer_batch",), changes=changes))

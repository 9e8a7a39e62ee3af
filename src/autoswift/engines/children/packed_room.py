"""The base with its pack, and the life of the trials in it: they join, are logged, saved, validated and leave."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autoswift.engines.children import energy, packed_checkpoint, packed_evaluation
from autoswift.engines.children.packed_arguments import arguments_of, check
from autoswift.engines.children.packed_data import Encoded, Source, stacked
from autoswift.engines.children.packed_graphs import Graphs
from autoswift.engines.children.packed_head import Head, Refused
from autoswift.engines.children.packed_pack import Pack, Stepped
from autoswift.engines.children.packed_trial import Log, Trial

KEEP = 2
"""Checkpoints of a trial that stay beside that of its stable step: the newest, and the one before it."""

ENERGY_SECONDS = 1.0
"""Between two looks at the card's counter of energy."""


class Room:
    """What `open` makes.

    Args:
        request: the command. events: where to tell.

    Raises:
        Refused: when this base, or these arguments, cannot be packed.
    """

    def __init__(self, request: Mapping[str, Any], events: Any) -> None:
        self.request, self.events = request, events
        if request.get("threads"):
            torch.set_num_threads(int(request["threads"]))
        self.device = torch.device(str(request.get("device") or "cpu"))
        if self.device.type == "cuda" and request.get("memory_limit_gib"):
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, float(request["memory_limit_gib"]) * 2**30 / total))
        self.source = Source(arguments_of(request))
        check(self.source.args)
        model = self.source.model
        if request.get("use_liger") and self.device.type == "cuda":
            _liger(model)
        head = Head(model)
        head.check()
        from swift.pipelines.train.tuner import get_target_modules

        bank, self.targets = stacked(model, get_target_modules(self.source.args, model), self.device)
        if request.get("gradient_checkpointing"):
            # our dropout knows its stream by itself, and a recording must not ask for the state of another
            model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        model.config.use_cache = False
        model.train()
        graphs = Graphs(self.device, enabled=bool(request.get("graphs", True)))
        self.pack = Pack(head, bank, graphs, int(request.get("max_trials") or 1))
        self.source.rows(request.get("max_length"))
        self.rows = _json_lines(request.get("validation"))
        self.meter = energy.of_this_training()
        self.joules, self.looked = self.meter.joules(), time.monotonic()
        self._sets: dict[str, list[Encoded]] = {}

    @property
    def busy(self) -> bool:
        """Is there a trial that could make a step?"""
        return bool(self.pack.trials or self.pack.waiting)

    def facts(self) -> dict[str, Any]:
        """For `opened`."""
        memory = int(torch.cuda.memory_allocated(self.device)) if self.device.type == "cuda" else 0
        return {"parameters": self.size(), "device_memory": memory, "max_trials": self.pack.capacity}

    def size(self) -> int:
        """Parameters of the base; those of 4-bit weights are two in a byte."""
        parameters = self.source.model.parameters()
        return sum(p.numel() * (2 if p.dtype == torch.uint8 else 1) for p in parameters)

    # commands ---------------------------------------------------------------------------------------------------

    def submit(self, request: Mapping[str, Any]) -> None:
        """A trial joins at the next step, or waits for a slot."""
        number = int(request["trial"])
        try:
            trial = Trial(request, self.source.rows(request["settings"].get("max_length")))
            if trial.settings.eval_steps:
                self._validation(trial)
            self.pack.fit([trial])
            if request.get("from_checkpoint"):
                packed_checkpoint.load(trial, self.pack.bank.plan, Path(str(request["from_checkpoint"])))
            self.pack.add(trial)
        except Refused as error:
            symptom = "bad_checkpoint" if error.reason == "checkpoint" else "packing_refused"
            self.events.send("failed", trial=number, symptom=symptom, reason=error.reason, text=error.text)
            return
        except torch.OutOfMemoryError as error:
            self.events.send("failed", trial=number, symptom="device_out_of_memory", text=str(error))
            return
        self._announce()

    def stop(self, number: int) -> None:
        """A trial ends at its next step; one that waits ends now."""
        for trial in list(self.pack.waiting):
            if trial.number == number:
                trial.reason = "stop_file"
                self._finish([trial])
        for trial in self.pack.trials:
            if trial.number == number:
                trial.stop_asked = True

    def save(self, number: int) -> None:
        """Saves a trial as it stands after its last whole step."""
        for trial in [*self.pack.trials, *self.pack.waiting]:
            if trial.number == number:
                self._save(trial)

    # steps ------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One micro-batch of each trial, and what follows from it."""
        words = None
        try:
            self.pack.tick()
        except torch.OutOfMemoryError as error:
            words = str(error)  # the exception itself would keep the tensors of the failed pass alive
        self._share_energy()
        ending = []
        for stepped in self.pack.stepped:
            self._log(stepped)
            if self._after(stepped):
                ending.append(stepped.trial)
        self.pack.stepped = []
        if words is not None:
            self._halve(words)
            ending = [trial for trial in ending if trial.slot is not None or trial in self.pack.waiting]
        if ending:
            self._finish(ending)

    def _halve(self, words: str) -> None:
        trials = list(self.pack.trials)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.pack.graphs.made:  # the recordings' memory first
            self.pack.graphs.drop()
        if len(trials) == 1:
            trial = trials[0]
            self.pack.leave(trial)
            self.events.send("failed", trial=trial.number, symptom="device_out_of_memory", text=words)
            self._announce()
            return
        self.pack.shrink()
        self.events.send("capacity", trials=self.pack.capacity, reason=words)

    def _log(self, stepped: Stepped) -> None:
        trial, log = stepped.trial, stepped.trial.log
        if trial.step % trial.settings.logging_steps == 0 or stepped.symptom or trial.step >= trial.settings.max_steps:
            metrics = {
                "loss": log.loss / max(log.steps, 1),
                "grad_norm": stepped.grad_norm,
                "learning_rate": trial.scheduler.get_last_lr()[0],
                "token_acc": log.right / max(log.counted, 1),
                "tokens": trial.tokens,
                "seconds_per_step": log.seconds / max(log.steps, 1),
                "memory_bytes": peak_memory_bytes(),
            }
            if self.joules is not None:
                metrics["energy_joules"] = round(trial.joules, 1)
            total = trial.settings.max_steps
            self.events.send("progress", trial=trial.number, step=trial.step, total_steps=total, metrics=metrics)
            trial.log = Log()
        if stepped.symptom:
            self.events.send("warning", trial=trial.number, symptom=stepped.symptom, step=trial.step)

    def _after(self, stepped: Stepped) -> bool:
        """What a step brings with it; says whether the trial ends."""
        trial, s = stepped.trial, stepped.trial.settings
        if trial.reason is not None:
            return True
        ends = trial.step >= s.max_steps
        every = float(self.request.get("checkpoint_seconds") or 0)
        due = bool(every) and time.time() - trial.saved >= every
        if not ends and (trial.step == s.stable_steps or due):
            self._save(trial)
        if s.eval_steps and (trial.step % s.eval_steps == 0 or ends):
            values = packed_evaluation.eval_loss(self.pack, [trial], self._validation(trial), 8)
            metrics = {"eval_loss": values[trial.number]}
            self.events.send("evaluated", trial=trial.number, step=trial.step, metrics=metrics)
        if ends:
            return True
        if trial.stop_asked:
            trial.reason = "stop_file"
        elif trial.deadline and time.time() >= trial.deadline - float(trial.request.get("evaluate_seconds") or 0):
            trial.reason = "deadline"
        return trial.reason is not None

    def _finish(self, trials: list[Trial]) -> None:
        """The last lines of trials that end together: they are validated in one pass."""
        for trial in trials:
            if trial.reason is not None:
                self.events.send("stopping", trial=trial.number, reason=trial.reason, step=trial.step)
            if trial.reason != "nan":
                self._save(trial)
            trial.ended = time.time()
        seated = [trial for trial in self.pack.trials if trial in trials and trial.reason != "nan"]
        wanted = [trial for trial in seated if trial.request.get("evaluate_rows")]
        if wanted and self.rows:
            try:
                self._validate(wanted)
            except Exception as error:  # the trained adapters are there: a failed validation must not lose them
                traceback.print_exc()
                oom = isinstance(error, torch.OutOfMemoryError)
                symptom = "validation_out_of_memory" if oom else "validation_failed"
                text = f"{type(error).__name__}: {error}"
                for trial in wanted:
                    self.events.send("warning", trial=trial.number, symptom=symptom, message=text, step=trial.step)
        for trial in trials:
            self.pack.leave(trial)
            self.events.send(
                "finished",
                trial=trial.number,
                step=trial.step,
                tokens=trial.tokens,
                train_seconds=trial.ended - trial.begun,
                stopped=trial.reason,
            )
        self._announce()

    def _announce(self) -> None:
        """Free slots are given away, and whoever begins is told of."""
        self.pack.admit()
        for trial in self.pack.trials:
            if trial.announced:
                continue
            trial.announced = True
            trial.begun = trial.saved = time.time()
            s = trial.settings
            trainable = sum(s.lora_rank * (t.inputs + t.outputs) for t in self.pack.bank.targets)
            trainable += sum(t.outputs for t in self.pack.bank.targets) if s.use_dora else 0
            self.events.send(
                "started",
                trial=trial.number,
                step=trial.step,
                total_steps=s.max_steps,
                parameters={"total": self.size() + trainable, "trainable": trainable},
                seconds_to_start=trial.begun - trial.asked,
            )

    # saving and validating --------------------------------------------------------------------------------------

    def _save(self, trial: Trial) -> None:
        args = self.source.args
        s = trial.settings
        kept = {name: getattr(args, name) for name in ("lora_rank", "lora_alpha", "use_dora", "use_rslora")}
        args.lora_rank, args.lora_alpha, args.use_dora, args.use_rslora = (
            s.lora_rank,
            s.lora_alpha,
            s.use_dora,
            s.use_rslora,
        )
        try:
            base = str(self.request.get("model") or args.model)
            place = packed_checkpoint.save(trial, self.pack.bank.plan, base, self.targets, args)
        finally:
            for name, value in kept.items():
                setattr(args, name, value)
        trial.saved = time.time()
        self.events.send("saved", trial=trial.number, step=trial.step, checkpoint=str(place))
        others = sorted(trial.folder.glob("checkpoint-*"), key=lambda p: p.stat().st_mtime)
        stable = f"checkpoint-{s.stable_steps}"
        for old in [p for p in others if p.suffix != ".part" and p.name != stable][:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)

    def _validation(self, trial: Trial) -> list[Encoded]:
        if "eval" not in self._sets:
            path = self.request.get("validation")
            found = [self.source.encode(row["messages"]) for row in _json_lines(path)]
            self._sets["eval"] = [row for row in found if row is not None]
        if not self._sets["eval"]:
            raise Refused("rows", f"trial {trial.number} wants validation, and there are no rows")
        return self._sets["eval"]

    def _validate(self, trials: list[Trial]) -> None:
        template, request = self.source.template, self.request
        limit, usual = int(request.get("max_new_tokens", 128)), int(request.get("generation_batch_size") or 8)
        batch = min(int(trial.request["settings"].get("generation_batch_size") or usual) for trial in trials)
        deadlines = [float(trial.deadline) for trial in trials if trial.deadline]
        until = min(deadlines) if deadlines else None
        if until is not None and time.time() >= until:
            return
        if "answers" not in self._sets:
            self._sets["answers"] = packed_evaluation.answer_rows(template, self.pack.head.model, self.rows)
        most = max(int(trial.request["evaluate_rows"]) for trial in trials)
        losses = packed_evaluation.row_losses(self.pack, trials, self._sets["answers"][:most], batch)
        settings = {"max_new_tokens": limit, "batch_size": batch, "until": until}
        wanted = self.rows if limit > 0 else []
        made = packed_evaluation.answers(self.pack, trials, template, wanted, settings)
        for trial in trials:
            counted = losses[trial.number][: int(trial.request["evaluate_rows"])]
            tokens = sum(count for _, count in counted)
            metrics: dict[str, Any] = {"nll": sum(total for total, _ in counted) / tokens if tokens else None}
            metrics["nll_tokens"] = tokens
            done = [answer for answer in made[trial.number] if answer is not None]
            if done:
                metrics["latency_seconds"] = sum(answer.seconds for answer in done) / len(done)
                metrics["answer_tokens"] = sum(answer.tokens for answer in done) / len(done)
                metrics["stopped"] = sum(answer.stopped for answer in done) / len(done)
            self.events.send(
                "evaluated",
                trial=trial.number,
                step=trial.step,
                final=True,
                complete=len(done) == len(wanted),
                metrics=metrics,
                answers=[None if answer is None else answer.as_json() for answer in made[trial.number]],
            )

    def _share_energy(self) -> None:
        now = time.monotonic()
        if self.joules is None or now - self.looked < ENERGY_SECONDS or not self.pack.trials:
            return
        before, self.joules, self.looked = self.joules, self.meter.joules(), now
        if self.joules is not None:
            for trial in self.pack.trials:
                trial.joules += (self.joules - before) / len(self.pack.trials)


def peak_memory_bytes() -> int:
    """Peak of the accelerator's allocator, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _liger(model: Any) -> None:
    """Liger's norms, rotations and gates where they are installed; the loss is our own either way."""
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance  # type: ignore[import-not-found]
    except ImportError:
        return
    _apply_liger_kernel_to_instance(model=model)


def _json_lines(path: Any) -> list[dict[str, Any]]:
    if not path:
        return []
    with Path(str(path)).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]

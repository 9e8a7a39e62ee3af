"""ms-swift plug-in: reports a training to autoswift and ends it on request.

Loaded by `python -m swift.cli.sft … --external_plugins <this file> --callbacks autoswift`. It reads the JSON
file named by AUTOSWIFT_TRIAL and appends one JSON line per event to its `channel`. Nothing of autoswift is
importable here.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import os
import resource
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from swift.callbacks import TrainerCallback, callbacks_map


def _sibling(name: str) -> Any:
    """The module of this folder, by path: the folder is no package in this environment."""
    key = f"autoswift_child_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, Path(__file__).with_name(f"{name}.py"))
        if spec is None or spec.loader is None:
            raise ImportError(f"{name}.py is missing beside {__file__}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        spec.loader.exec_module(module)
    return sys.modules[key]


@dataclass(frozen=True)
class TrialFile:
    """What the control process wants of this training (the file named by AUTOSWIFT_TRIAL)."""

    channel: Path
    deadline: float | None = None
    hard_deadline: float | None = None
    stop_file: Path | None = None
    validation: Path | None = None
    max_new_tokens: int = 128
    generation_batch_size: int = 8
    nll_rows: int = 0
    stable_step: int | None = None
    checkpoint_seconds: float = 0.0

    @classmethod
    def read(cls) -> TrialFile:
        """Read the file named by AUTOSWIFT_TRIAL; unknown fields are for other readers."""
        name = os.environ.get("AUTOSWIFT_TRIAL")
        if not name:
            raise RuntimeError("AUTOSWIFT_TRIAL names no file: the callback `autoswift` needs one")
        fields = json.loads(Path(name).read_text(encoding="utf-8"))
        paths = ("channel", "stop_file", "validation")
        numbers: tuple[str, ...] = (
            "deadline",
            "hard_deadline",
            "max_new_tokens",
            "generation_batch_size",
            "nll_rows",
            "stable_step",
        )
        numbers += ("checkpoint_seconds",)
        known: dict[str, Any] = {key: fields[key] for key in numbers if fields.get(key) is not None}
        known |= {key: Path(fields[key]) for key in paths if fields.get(key)}
        return cls(**known)

    def rows(self) -> list[dict[str, Any]]:
        """The validation rows."""
        if self.validation is None:
            return []
        with self.validation.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]


def _finite(value: Any, name: str, nonfinite: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item, f"{name}.{key}" if name else key, nonfinite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, f"{name}[{place}]", nonfinite) for place, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(name)
        return None
    return value


class Channel:
    """An append-only file of JSON lines; one write a line, so a reader never sees half of two."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("ab", buffering=0)

    def send(self, event: str, **fields: Any) -> None:
        """Append one event; floats that JSON cannot hold become null and are named."""
        nonfinite: list[str] = []
        line = _finite({"event": event, "time": time.time(), **fields}, "", nonfinite)
        if nonfinite:
            line["nonfinite"] = nonfinite
        self.file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def peak_memory_bytes() -> int:
    """Peak of the accelerator's allocator, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _parameters(model: Any) -> dict[str, int]:
    if hasattr(model, "get_nb_trainable_parameters"):  # knows the packed storage of 4-bit weights
        trainable, total = model.get_nb_trainable_parameters()
    else:
        total = sum(parameter.numel() for parameter in model.parameters())
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {"total": int(total), "trainable": int(trainable)}


def merge_for_answers(model: Any) -> None:
    """Fold the adapter into the base's weights, in memory.

    It is what will be served, and answers come twice as fast (16 answers of 64 tokens on two cores: 15 s merged, 36 s
    with the adapter beside). The checkpoint is saved already and the process ends after the answers. Quantized weights
    cannot take an adapter without loss and stay as they are.
    """
    quantized = getattr(getattr(model, "config", None), "quantization_config", None)
    if quantized is None and hasattr(model, "merge_adapter"):
        model.merge_adapter()


class AutoswiftCallback(TrainerCallback):  # type: ignore[misc]
    """Reports, watches the deadline and the stop file, and answers the validation rows at the end."""

    def __init__(self, args: Any, trainer: Any) -> None:
        super().__init__(args, trainer)
        # a name given twice makes two callbacks on one trainer: the second stays silent
        self.active = not getattr(trainer, "_autoswift_callback", False)
        trainer._autoswift_callback = True
        self.trial = TrialFile.read()
        self.channel = Channel(self.trial.channel)
        # without this a NaN loss is logged as the mean of the losses before it
        args.logging_nan_inf_filter = False
        # the trainer's own count is exact, is gathered over ranks and survives a resume; without padding
        # there is no mask to count by
        args.include_num_input_tokens_seen = "all" if trainer.template.padding_free else "non_padding"
        self.begun = self.mark = time.time()
        self.step_seconds: list[float] = []
        self.kept, self.only_model = time.monotonic(), bool(args.save_only_model)
        self.watch = _sibling("watch").Watch()
        self.reason: str | None = None
        self.meter = _sibling("energy").of_this_training()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report the start."""
        self.begun = self.mark = time.time()
        self._send(
            state,
            "started",
            step=state.global_step,
            total_steps=state.max_steps,
            parameters=_parameters(self.trainer.accelerator.unwrap_model(self.trainer.model)),
            seconds_to_start=self.begun - psutil.Process().create_time(),
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Time the step, and end the training when it is wanted."""
        now = time.time()
        self.step_seconds.append(now - self.mark)
        self.mark = now
        if not self.active or self.reason is not None:
            return control
        if state.global_step == self.trial.stable_step:
            control.should_save = True  # before the rate falls: a longer trial goes on from here
        self._keep_now_and_then(args, state, control)
        reason = self._agreed(self._wanted_reason(now))
        if reason is not None:
            self.reason = reason
            control.should_training_stop = control.should_save = True
            self._send(state, "stopping", reason=reason, step=state.global_step)
        return control

    def _keep_now_and_then(self, args: Any, state: Any, control: Any) -> None:
        """Save all that a training needs to go on, so that a kill costs no more than `checkpoint_seconds`.

        The last checkpoint is as it was asked for; after the stable step nothing may push that one out.
        """
        every, stable = self.trial.checkpoint_seconds, self.trial.stable_step
        late = state.global_step >= state.max_steps or (stable is not None and state.global_step >= stable)
        due = every > 0 and not late and time.monotonic() - self.kept >= every
        due = bool(every > 0 and self._agreed("save" if due else None))
        args.save_only_model = self.only_model and not due
        control.should_save = control.should_save or due

    def _wanted_reason(self, now: float) -> str | None:
        if self.trial.stop_file is not None and self.trial.stop_file.exists():
            return "stop_file"
        if self.trial.deadline is not None and now >= self.trial.deadline:
            return "deadline"
        return None

    def _agreed(self, reason: str | None) -> str | None:
        """The first rank decides for all: ranks that disagree would wait for each other for ever."""
        dist = torch.distributed
        if not (dist.is_available() and dist.is_initialized()):
            return reason
        box = [reason]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> Any:
        """Report a logging step, and give up when the loss is not a number."""
        if not self.active or not logs or "loss" not in logs:
            return control
        names = ("loss", "grad_norm", "learning_rate", "token_acc")
        metrics = {name: _number(logs[name]) for name in names if name in logs}
        metrics["tokens"] = int(state.num_input_tokens_seen)
        metrics["seconds_per_step"] = sum(self.step_seconds) / max(len(self.step_seconds), 1)
        metrics["memory_bytes"] = peak_memory_bytes()
        metrics |= self._energy()
        self.step_seconds.clear()
        self._send(state, "progress", step=state.global_step, total_steps=state.max_steps, metrics=metrics)
        self._watch_numbers(state, control, metrics)
        return control

    def _watch_numbers(self, state: Any, control: Any, metrics: dict[str, Any]) -> None:
        """Tell what is alarming, and end a training whose numbers are lost: swift itself goes on with them."""
        for warning in self.watch.take(metrics):
            self._send(state, "warning", step=state.global_step, **warning)
        if not self.watch.lost:
            return
        if self.reason is None:
            self.reason = "nan"
            self._send(state, "stopping", reason="nan", step=state.global_step)
        control.should_training_stop = True
        control.should_save = control.should_evaluate = False  # nothing of it is worth keeping

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Report swift's own evaluation."""
        values = {key: _number(value) for key, value in (metrics or {}).items()}
        self._send(state, "evaluated", step=state.global_step, metrics=values)
        self.mark = time.time()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report a checkpoint."""
        path = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
        self._send(state, "saved", step=state.global_step, checkpoint=path)
        self.kept = time.monotonic()
        self.mark = time.time()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Answer the validation rows with the trained model, then report the end."""
        if not self.active or not state.is_world_process_zero:
            return
        seconds = time.time() - self.begun
        if self.reason != "nan":
            try:
                self._validate(state)
            except Exception as error:  # the trained model is there: a failed validation must not lose it
                traceback.print_exc()
                oom = _sibling("watch").out_of_memory(error)
                self._send(
                    state,
                    "warning",
                    symptom="validation_out_of_memory" if oom else "validation_failed",
                    text=f"{type(error).__name__}: {error}"[:900],
                    step=state.global_step,
                )
        self._send(
            state,
            "finished",
            step=state.global_step,
            tokens=int(state.num_input_tokens_seen),
            train_seconds=seconds,
            stopped=self.reason,
        )

    def _validate(self, state: Any) -> None:
        rows = self.trial.rows()
        until = self.trial.hard_deadline
        if not rows or (until is not None and time.time() >= until):
            return
        if self.trainer.is_deepspeed_enabled or self.trainer.is_fsdp_enabled:
            raise RuntimeError("the weights are sharded over ranks: validate the saved checkpoint instead")
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        merge_for_answers(model)
        metrics, batch = dict[str, Any](), self.trial.generation_batch_size
        while True:
            try:
                made = self._answers(model, rows, batch, metrics)
                break
            except (RuntimeError, MemoryError) as error:
                if batch <= 1 or not _sibling("watch").out_of_memory(error):
                    raise
                words = f"{type(error).__name__}: {error}"[:900]
            batch = max(1, batch // 2)  # here, not above: the error held the tensors that it died of
            self._free(state, batch, words)
        done = [answer for answer in made if answer is not None]
        if done:
            metrics["latency_seconds"] = sum(answer.seconds for answer in done) / len(done)
            metrics["answer_tokens"] = sum(answer.tokens for answer in done) / len(done)
            metrics["stopped"] = sum(answer.stopped for answer in done) / len(done)
        metrics |= self._energy()
        answers = [None if answer is None else answer.as_json() for answer in made]
        self._send(
            state,
            "evaluated",
            step=state.global_step,
            final=True,
            complete=len(done) == len(made),
            metrics=metrics,
            answers=answers,
        )

    def _answers(self, model: Any, rows: list[dict[str, Any]], batch: int, metrics: dict[str, Any]) -> list[Any]:
        """The likelihood of the rows' answers into `metrics`, and the model's own answers; None for one cut off."""
        answering, template = _sibling("answering"), self.trainer.template
        if self.trial.nll_rows > 0:
            scored = answering.score(model, template, rows[: self.trial.nll_rows], batch_size=batch)
            tokens = sum(row.tokens for row in scored)
            metrics["nll"] = sum(row.nll_sum for row in scored) / tokens if tokens else None
            metrics["nll_tokens"] = tokens
        wanted = rows if self.trial.max_new_tokens > 0 else []
        if not wanted:  # a length of nothing is refused even for no rows
            return []
        most, until = self.trial.max_new_tokens, self.trial.hard_deadline
        made: list[Any] = answering.generate(
            model, template, wanted, max_new_tokens=most, batch_size=batch, until=until
        )
        return made

    def _free(self, state: Any, batch: int, words: str) -> None:
        """Give back what answers of too large a batch left behind, and say how many are tried now."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        fewer = {"generation_batch_size": batch}
        self._send(
            state, "warning", symptom="validation_out_of_memory", text=words, metrics=fewer, step=state.global_step
        )

    def _energy(self) -> dict[str, float]:
        """What the cards took so far, where they count it."""
        joules = self.meter.joules()
        return {} if joules is None else {"energy_joules": round(joules, 1)}

    def _send(self, state: Any, event: str, **fields: Any) -> None:
        if self.active and state.is_world_process_zero:
            self.channel.send(event, **fields)


callbacks_map["autoswift"] = AutoswiftCallback

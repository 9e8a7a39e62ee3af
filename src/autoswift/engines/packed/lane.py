"""One trial on its way through the resident worker."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from autoswift.domain.plan import Plan
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.engines.arguments import sft_arguments
from autoswift.engines.context import EngineContext
from autoswift.engines.lines import Lines
from autoswift.engines.megatron import plain_command
from autoswift.engines.packed.protocol import Said, Submit
from autoswift.run.files import dumps, write_atomic
from autoswift.run.manifest import newest_whole
from autoswift.search.configuration import settings_in_force

PER_TRIAL = frozenset({
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_ratio", "weight_decay", "max_grad_norm",
    "lora_rank", "lora_alpha", "lora_dropout", "per_device_train_batch_size", "gradient_accumulation_steps",
    "max_steps", "max_length", "seed", "stable_steps", "generation_batch_size",
    "micro_batch_limit",
})  # fmt: skip
"""Settings in which trials of one worker may differ."""
RESIDENT = frozenset({"gradient_checkpointing"})
"""Settings of the worker that it can be opened anew with: what they change is memory and time, not the result."""

STATE = "packed_state.json"
"""In a checkpoint of the worker; one of swift's has another state, from which the worker cannot go on."""


class Lane:
    """A trial: what it is to be, its files, and what its lines have said.

    Args:
        context: of the run. plan: in force. trial: the attempt.
        checkpoint: that it goes on from, absolute; the worker begins anew where it is not its own.

    Attributes:
        losses: workers that ended under it without a step of progress. submitted: unix seconds, to the worker it is in.
        sent: a checkpoint was asked for then (monotonic clock). ending: it was asked to stop.
        refused: the worker cannot take it.
    """

    def __init__(self, context: EngineContext, plan: Plan, trial: Trial, checkpoint: Path | None) -> None:
        self.trial, self.context = trial, context
        self.folder = context.folder / "trials" / str(trial.number) / f"attempt-{trial.attempt}"
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.settings = settings_in_force(plan, trial)
        # Rows of all trials are in one step: none of them says in what order rows of a length come.
        self.settings["flags"] = {k: v for k, v in self.settings["flags"].items() if k != "group_by_length"}
        self.lines = Lines(context, plan, trial, self.folder, int(self.settings.get("stable_steps") or 0))
        self._given = checkpoint
        self.begin = checkpoint if checkpoint and (checkpoint / STATE).is_file() else None
        self.losses, self.reached, self.submitted, self.sent = 0, 0, 0.0, 0.0
        self.ending = self.refused = False
        self._kept: list[Path] = []
        arguments = sft_arguments(context, plan.model, self.settings, self.folder / "output")
        plain = plain_command(arguments, plan.training.environment, 1, megatron=False)
        write_atomic(self.folder / "command.json", dumps(plain, indent=1))

    @property
    def number(self) -> int:
        """The trial's."""
        return self.trial.number

    @property
    def begin_alone(self) -> Path | None:
        """The checkpoint that a process of its own goes on from: one of the worker's would be nothing to swift."""
        return self._given if self._given and (self._given / "trainer_state.json").is_file() else None

    @property
    def alone(self) -> bool:
        """Whether it needs a process of its own: recovery changed something that trials of one worker share, say."""
        return self.refused or bool(set(self.trial.overrides) - PER_TRIAL - RESIDENT)

    @property
    def checkpointing(self) -> bool:
        """Whether it needs its activations recomputed."""
        return bool(self.settings["gradient_checkpointing"])

    def command(self) -> Submit:
        """What the worker is told: to start it, or to go on from its newest valid checkpoint."""
        self.submitted, self.sent = time.time(), time.monotonic()
        self.lines.reopened()
        one = Submit(
            trial=self.trial.number,
            attempt=self.trial.attempt,
            settings=self.settings,
            folder=self.folder / "output",
            from_checkpoint=self.newest(),
            deadline=self.trial.deadline,
            evaluate_rows=self.trial.evaluate_rows,
            evaluate_seconds=self.trial.evaluate_seconds,
        )
        write_atomic(self.folder / "trial.json", dumps(one, indent=1))
        return one

    def newest(self) -> Path | None:
        """Its newest checkpoint that is whole, else the one that it began with."""
        return newest_whole(self._kept)[0] or self.begin

    def take(self, said: Said) -> Event | None:
        """The event of a line."""
        line: dict[str, Any] = said.line
        if said.event == "started":
            # Until the first step, the worker's own start and the wait for a slot included.
            line = line | {"seconds_to_start": max(0.0, said.time - self.submitted)}
        before = self.lines.checkpoint
        event = self.lines.event(line)
        if said.event == "saved":
            self.sent = time.monotonic()
            if self.lines.checkpoint != before:
                self._kept.append(Path(self.lines.checkpoint))
        if self.lines.steps > self.reached:
            self.reached, self.losses = self.lines.steps, 0
        return event

    def overdue(self, grace: float) -> bool:
        """Whether its deadline has passed by so many seconds."""
        return self.trial.deadline is not None and time.time() > self.trial.deadline + grace

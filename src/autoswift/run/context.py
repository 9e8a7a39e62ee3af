"""What every stage is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from autoswift.domain.task import Task
from autoswift.run.clock import RunClock
from autoswift.run.journal import RunJournal
from autoswift.run.record import RunRecord


@dataclass(slots=True)
class RunContext:
    """One owner's work on one run.

    Attributes:
        shortfalls: in words, what the run finishes without (exit code 3).
    """

    record: RunRecord
    journal: RunJournal
    task: Task
    clock: RunClock
    shortfalls: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.record.folder

    def note(self, text: str, level: str = "info") -> None:
        """Tells the user something that needs no answer."""
        self.journal.event("note", text=text, level=level)

    def fall_short(self, text: str) -> None:
        """Notes what the run finishes without."""
        if text not in self.shortfalls:
            self.shortfalls.append(text)
            self.journal.event("note", text=text, level="warn", short=True)

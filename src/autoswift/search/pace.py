"""How much slower than planned this machine is today, by what the trials show: the reserve grows with it."""

from __future__ import annotations

from dataclasses import dataclass

from autoswift.domain.plan import SearchSettings

COVERED = 1.25
"""What the reserve's own slack holds already (`decide.schedule.SLACK`): spread between runs on a quiet machine."""

SLOWEST = 4.0
"""Beyond this a figure is an accident (a suspended machine), not a pace."""


@dataclass(slots=True)
class Pace:
    """Real over planned seconds of what every trial does beside training; 1 until something was seen.

    Starting a process and answering rows are what merge, evaluation, conversion and serving consist of, so a
    neighbour that slows the ones slows the others.
    """

    settings: SearchSettings
    ratio: float = 1.0

    def started(self, seconds: float | None) -> None:
        """Takes the seconds from a process's start to its first step."""
        self._see(seconds, self.settings.start_seconds)

    def answered(self, seconds: float | None) -> None:
        """Takes the seconds that answering the validation rows took."""
        self._see(seconds, self.settings.answer_seconds)

    @property
    def reserve_seconds(self) -> float:
        """To be kept free for what follows the search, at this pace."""
        return self.settings.reserve_seconds * max(1.0, self.ratio / COVERED)

    def _see(self, real: float | None, planned: float) -> None:
        if real and planned > 0:
            self.ratio = min(SLOWEST, max(self.ratio, real / planned))

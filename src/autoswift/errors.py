"""Every error that autoswift raises on purpose, as one tree.

AutoSwiftError                 what, why, fix; exit code; transient or terminal
├── InputError                 2  the input or the request is wrong
│   ├── DataError              2  a data file, by file and line
│   ├── ModelError             2  a model folder or name
│   ├── EnvironmentMissing     2  the training environment is not there
│   ├── DiskError              2  the disk fails or is read-only where the run writes
│   │   └── DiskFull           2  no room left there
│   ├── RunNotFound            2  no such run, or the prefix fits several
│   └── RunLocked              2  another process works on this run
├── BudgetExhausted            3  nothing usable within the budget
├── Vetoed                     3  the user did not accept the plan
├── StageFailed                4  a stage failed for good
│   ├── PostCheckFailed        4  an artefact is there but it is not what it should be
│   └── ModelTooLarge          4  no configuration of the model fits the memory; a smaller one may
├── ChildFailed                4  a child process ended badly (transient when it was killed)
└── HubUnreachable             4  transient: the hub did not answer
"""

from __future__ import annotations

from typing import ClassVar


class AutoSwiftError(Exception):
    """An error with an explanation.

    Args:
        what: what happened, one sentence.
        why: the cause, as far as it is known.
        fix: what the reader can do about it.
    """

    exit_code: ClassVar[int] = 4
    transient: bool = False

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.fix = what, why, fix

    def as_json(self) -> dict[str, object]:
        """The error as the value that `--json` prints and that the journal keeps."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
            "transient": self.transient,
            "exit_code": self.exit_code,
        }


class InputError(AutoSwiftError):
    """The input or the request is wrong."""

    exit_code = 2


class DataError(InputError):
    """A data file cannot be used. `problems` holds each finding with file and line."""

    def __init__(self, what: str, why: str = "", fix: str = "", problems: tuple[object, ...] = ()) -> None:
        super().__init__(what, why, fix)
        self.problems = problems


class ModelError(InputError):
    """A model folder or name cannot be used."""


class EnvironmentMissing(InputError):
    """The training environment is not there."""


class DiskError(InputError):
    """The disk fails, or may not be written, where the run writes."""


class DiskFull(DiskError):
    """No room left where the run writes."""


class RunNotFound(InputError):
    """No such run, or the prefix fits several."""


class RunLocked(InputError):
    """Another process works on this run."""


class BudgetExhausted(AutoSwiftError):
    """Nothing usable came out within the budget."""

    exit_code = 3


class Vetoed(AutoSwiftError):
    """The user did not accept the plan."""

    exit_code = 3


class StageFailed(AutoSwiftError):
    """A stage failed for good."""


class PostCheckFailed(StageFailed):
    """An artefact is there, but it is not what it should be."""


class ModelTooLarge(StageFailed):
    """No configuration of the model fits the memory; a smaller one may."""


class ChildFailed(AutoSwiftError):
    """A child process ended badly."""

    def __init__(self, what: str, why: str = "", fix: str = "", *, transient: bool = False) -> None:
        super().__init__(what, why, fix)
        self.transient = transient


class HubUnreachable(AutoSwiftError):
    """The model hub did not answer."""

    transient = True

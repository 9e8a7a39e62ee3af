"""The last answers of a pure function of values that cannot be hashed (profiles hold dicts)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

LAST = 4
"""Answers kept: a sweep over one fact alternates between few values of everything else."""


class Kept(Generic[T]):
    """Calls a function, or gives the answer that it gave to equal arguments a moment ago."""

    def __init__(self, function: Callable[..., T]) -> None:
        self.function = function
        self._last: deque[tuple[tuple[Any, ...], T]] = deque(maxlen=LAST)

    def __call__(self, *arguments: Any) -> T:
        """The function's answer."""
        for known, answer in self._last:
            if all(a is b or a == b for a, b in zip(known, arguments, strict=True)):
                return answer
        answer = self.function(*arguments)
        self._last.append((arguments, answer))
        return answer

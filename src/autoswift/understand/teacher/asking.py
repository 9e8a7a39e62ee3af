"""Many questions to a teacher: a few at once, within a budget, each answer on the disk before the next step."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoswift.domain.protocols import Question, Reply, Teacher
from autoswift.errors import HubUnreachable
from autoswift.run.files import append_line, digest, read_lines

GRACE = 0.5
"""Seconds that answers under way have to come in before their connections are closed."""
FIRST = 16
"""Things that the first round takes on: enough to learn what a question costs in tokens and seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a teacher may cost: questions, tokens read and written, seconds; whichever ends first."""

    requests: int
    tokens: int
    seconds: float
    concurrency: int = 4


@dataclass(slots=True)
class Spent:
    """What it has cost so far, over all owners of the run."""

    requests: int = 0
    tokens: int = 0
    seconds: float = 0.0
    by_kind: dict[str, int] = field(default_factory=dict)
    recalled: int = 0


class Asking:
    """Asks, and remembers: an answer that is in the journal is never asked for again.

    The journal is append-only JSON lines, each synced: {key, kind, text, finish, tokens, seconds}, and for each round
    its {round, size}. The key is a hash of
    the question and the model's name, so a killed run that asks the same questions gets the same answers for nothing.

    Args:
        teacher: who is asked.
        path: of the journal.
        limits: of this and all earlier owners together.
    """

    def __init__(self, teacher: Teacher, path: Path, limits: Limits) -> None:
        self.teacher, self.path, self.limits = teacher, path, limits
        self.spent = Spent()
        self.ended = ""
        self._stopped = False
        self._lock = threading.Lock()
        self._known: dict[str, Reply] = {}
        self._used: set[str] = set()
        self._why: HubUnreachable | None = None
        rows = read_lines(path)
        self._sizes = {int(row["round"]): int(row["size"]) for row in rows if "round" in row and "size" in row}
        for row in rows:
            if isinstance(row.get("key"), str) and isinstance(row.get("text"), str):
                reply = Reply(text=row["text"], finish=str(row.get("finish")), tokens=int(row.get("tokens") or 0))
                self._known[row["key"]] = reply
                self._count(str(row.get("kind")), reply, float(row.get("seconds") or 0.0))
        self._begin = time.monotonic() - max((float(r.get("at") or 0.0) for r in rows), default=0.0)

    def _count(self, kind: str, reply: Reply, seconds: float) -> None:
        self.spent.requests += 1
        self.spent.tokens += reply.tokens
        self.spent.seconds += seconds
        self.spent.by_kind[kind] = self.spent.by_kind.get(kind, 0) + 1

    @property
    def elapsed(self) -> float:
        """Seconds of work on this, over all owners."""
        return time.monotonic() - self._begin

    def size(self, number: int, most: int, cost: float) -> int:
        """How many things a round takes on, so that it ends within the budget; kept, for whoever resumes the run.

        Args:
            number: of the round.
            most: things wanted.
            cost: questions that one of them takes.
        """
        if number not in self._sizes:
            spent, limits = self.spent, self.limits
            left = float(limits.requests - spent.requests)
            if spent.requests:
                left = min(left, (limits.tokens - spent.tokens) * spent.requests / max(1, spent.tokens))
                left = min(left, (limits.seconds - self.elapsed) * spent.requests / max(0.01, self.elapsed))
            else:
                most = min(most, FIRST)
            self._sizes[number] = max(1, min(most, int(left / cost)))
            with self._lock:
                append_line(self.path, {"round": number, "size": self._sizes[number], "at": self.elapsed})
        return self._sizes[number]

    def many(self, questions: Sequence[Question], tell: Callable[[], None] | None = None) -> list[Reply | None]:
        """The answers in the order of the questions; None where the budget had ended or the teacher had gone.

        Args:
            questions: all that can be asked now.
            tell: called after each answer.

        Raises:
            InputError: when the teacher refuses all questions.
        """
        # Daemon threads: an interruption must not wait minutes for answers that nobody wants any more.
        todo = iter(list(enumerate(questions)))
        done: queue.SimpleQueue[tuple[int, Reply | None, BaseException | None]] = queue.SimpleQueue()

        def work() -> None:
            while True:
                with self._lock:
                    number, question = next(todo, (-1, None))
                    if question is None or self._stopped:
                        return
                try:
                    done.put((number, self._one(question), None))
                except BaseException as exc:
                    done.put((number, None, exc))

        threads = [
            threading.Thread(target=work, daemon=True) for _ in range(min(self.limits.concurrency, len(questions)))
        ]
        for thread in threads:
            thread.start()
        replies: list[Reply | None] = [None] * len(questions)
        try:
            for _ in questions:
                number, reply, problem = done.get()
                if problem is not None:
                    raise problem
                replies[number] = reply
                if tell is not None:
                    tell()
        except BaseException:
            self._stop(threads)
            raise
        return replies

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        """Asks nothing more, and writes nothing of what still comes: the run folder may be gone by then."""
        with self._lock:
            self._stopped = True
        end = time.monotonic() + GRACE
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self.teacher.close()

    def _one(self, question: Question) -> Reply | None:
        key = digest({"model": self.teacher.model, "question": question})
        with self._lock:
            if key in self._known:
                self.spent.recalled += key not in self._used
                self._used.add(key)
                return self._known[key]
            if self._over():
                return None
            self.spent.requests += 1  # reserved: what is under way counts
        begin = time.monotonic()
        try:
            reply = self.teacher.ask(question)
        except HubUnreachable as exc:
            with self._lock:
                self.spent.requests -= 1
                self.ended = self.ended or "unreachable"
                self._why = exc
            return None
        seconds = time.monotonic() - begin
        with self._lock:
            if self._stopped:
                return None
            row = {"key": key, "kind": question.kind, "text": reply.text, "finish": reply.finish}
            append_line(self.path, row | {"tokens": reply.tokens, "seconds": round(seconds, 3), "at": self.elapsed})
            self._known[key] = reply
            self._used.add(key)
            self.spent.requests -= 1
            self._count(question.kind, reply, seconds)
        return reply

    def _over(self) -> bool:
        if self.ended:
            return True
        if self.spent.requests >= self.limits.requests:
            self.ended = "requests"
        elif self.spent.tokens >= self.limits.tokens:
            self.ended = "tokens"
        elif self.elapsed >= self.limits.seconds:
            self.ended = "seconds"
        return bool(self.ended)

    def check_reached(self) -> None:
        """Raises what kept the teacher from answering, if anything did.

        Raises:
            HubUnreachable: the last one.
        """
        if self._why is not None:
            raise self._why

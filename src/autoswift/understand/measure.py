"""The profile of the rows kept, from the arrays; a few rows are read back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autoswift.domain.profile import Bin, LengthStats, RowExample
from autoswift.understand import flags, lexicon
from autoswift.understand.batch import EXAMPLES
from autoswift.understand.clean import REASONS, TIDIED, Row, row_text
from autoswift.understand.language import detect
from autoswift.understand.meta import FLAGS, MASKED, SCRIPTS, ends
from autoswift.understand.problems import printable
from autoswift.understand.sentence import domain_scores
from autoswift.understand.settle import Settled
from autoswift.understand.split import NAMES
from autoswift.understand.spool import Spool
from autoswift.understand.text import excerpt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE = 200
"""Rows that language and domain are judged by, evenly spaced: a share is then known to 7 points."""
DOMAIN_SHARE = 0.3
"""Of the sampled rows that speak of one domain before the file is said to: a third, as in a mixed chat log."""
SHOWN = 500
"""Characters of a sample's text that a report shows."""
LABELS_SHOWN = 100
BARS = 20
"""Of a histogram: what a page shows without a legend."""
BOILERPLATE_SHARE = 0.3
"""Of the answers that begin or end with the same sentence before it is said to be boilerplate."""
SHORT_SHARE = 0.05
"""Of the rows that have the same short answer before they are marked: one in twenty teaches to say just that."""
SHARES_FROM = 20
"""Rows from which on such a share means something."""
SCRIPTS_OF = {
    "zh": ("zh", "mixed"),
    "mixed": ("zh", "latin", "mixed"),
    "ja": ("ja", "zh", "mixed"),
    "ko": ("ko", "mixed"),
}
"""Scripts in which a row of a file in such a language is written; other languages have Latin letters or their own."""
_OTHER = ("ru", "uk", "bg", "sr", "mk", "be", "el", "he", "ar", "fa", "ur", "hi", "bn", "ta", "te", "th", "ka", "hy")


class Measures:
    """Counts and samples of the rows kept.

    Attributes:
        rows: the kept rows' numbers. language: of the file.
        flagged: rows marked, by kind; those that only the whole file shows among them.
        examples: as in `DataProfile.examples`.
    """

    def __init__(self, spool: Spool, settled: Settled, task: str) -> None:
        import numpy as np

        self.spool, self.settled, self.task = spool, settled, task
        self.rows = np.flatnonzero(settled.reason == 0)
        texts = [row_text(r) for r in self.sample()]
        self.language = detect("\n".join(t[:200] for t in texts))
        self.domain = domain_of(texts, task)
        self.flagged = self._bits("flags", FLAGS)
        self.tidied = self._bits("tidied", TIDIED)
        self.redacted = self._bits("masked", MASKED)
        self.examples = self._examples()
        for kind, rows in (
            ("near_duplicate", settled.together),
            ("language_mismatch", self._foreign()),
            ("short_answers", self._short()),
            ("boilerplate", self._boilerplate()),
        ):
            if len(rows):
                self.flagged[kind] = len(rows)
                self.examples.setdefault(kind, tuple(self._example(int(r)) for r in rows[:EXAMPLES]))

    def column(self, name: str) -> NDArray[Any]:
        """One entry of all kept rows."""
        import numpy as np

        return np.asarray(self.spool.meta[name][self.rows])

    def row(self, number: int) -> Row:
        """One kept row."""
        row: Row = json.loads(self.spool.line(number))
        return row

    def sample(self) -> list[Row]:
        """Kept rows, evenly spaced."""
        count = min(SAMPLE, len(self.rows))
        return [self.row(int(self.rows[i * len(self.rows) // count])) for i in range(count)]

    def roles(self) -> dict[str, int]:
        """Turns by role."""
        total = {name: int(self.column(name).sum()) for name in ("system", "turns", "answers", "tools")}
        asked = total["turns"] - total["answers"] - total["tools"]
        named = {"system": total["system"], "user": asked, "assistant": total["answers"], "tool": total["tools"]}
        return {role: n for role, n in named.items() if n}

    def answers(self) -> NDArray[np.uint32]:
        """Lengths of the answers of kept rows, in characters."""
        import numpy as np

        return np.asarray(self.spool.answers[np.repeat(self.settled.reason == 0, self.spool.meta["answers"])])

    def removed(self) -> dict[str, int]:
        """Rows removed, by reason."""
        import numpy as np

        counts = np.bincount(self.settled.reason, minlength=len(REASONS) + 1)[1:]
        return {name: int(n) for name, n in zip(REASONS, counts, strict=True) if n}

    def first_removed(self, reason: str) -> int:
        """The first row removed for a reason."""
        import numpy as np

        return int(np.argmax(self.settled.reason == REASONS.index(reason) + 1))

    def labels(self) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
        """Rows by label, and by label in each split."""
        import numpy as np

        marks = self.column("label")
        if not marks.any():
            return {}, {}
        names, inverse, counts = np.unique(marks, return_inverse=True, return_counts=True)
        texts = [self.spool.labels.get(int(m), "…") for m in names]
        order = sorted(range(len(names)), key=lambda i: (-int(counts[i]), texts[i]))[:LABELS_SHOWN]
        split = self.settled.split[self.rows]
        parts = {}
        for number, name in enumerate(NAMES):
            here = np.bincount(inverse[split == number], minlength=len(names))
            parts[name] = {texts[i]: int(here[i]) for i in order if here[i]}
        return {texts[i]: int(counts[i]) for i in order}, parts

    def samples(self) -> tuple[dict[str, Any], ...]:
        """The first rows kept, in the words of CONTRACTS, with their places."""
        numbers = [int(r) for r in self.rows[:EXAMPLES]]
        return tuple(self.spool.place(n) | shown(self.row(n), self.task) for n in numbers)

    def _bits(self, name: str, names: Sequence[str]) -> dict[str, int]:
        column = self.column(name)
        counts = {one: int(((column >> bit) & 1).sum()) for bit, one in enumerate(names)}
        return {one: n for one, n in counts.items() if n}

    def _examples(self) -> dict[str, tuple[RowExample, ...]]:
        found = {}
        for kind, some in sorted(self.spool.examples.items()):
            if kind in self.flagged and kind not in REASONS:  # of those kept: a duplicate is shown as one
                some = [one for one in some if not self.settled.reason[one[0]]]
            if some:
                found[kind] = tuple(self._example(i, before, after) for i, before, after in some)
        for reason in ("duplicate", "near_duplicate", "test_overlap"):
            rows = (self.settled.reason == REASONS.index(reason) + 1).nonzero()[0][:EXAMPLES]
            if len(rows):
                found[reason] = tuple(self._example(int(r)) for r in rows)
        return found

    def _example(self, number: int, before: str | None = None, after: str = "") -> RowExample:
        place = self.spool.place(number)
        if before is None:
            before = str(printable(excerpt(flags.masked(row_text(self.row(number))))))
        file = place["file"] if place["member"] is None else f"{place['file']}:{place['member']}"
        return RowExample(file=file, line=place["line"], row=place["row"], before=before, after=after)

    def _foreign(self) -> NDArray[np.int64]:
        """Rows in another script than the file's language has."""
        import numpy as np

        own = ("other", "mixed") if self.language in _OTHER else ("latin", "mixed")
        allowed = [SCRIPTS.index(s) for s in ("", *SCRIPTS_OF.get(self.language, own))]
        return self.rows[~np.isin(self.column("script"), allowed)]

    def _short(self) -> NDArray[np.int64]:
        return self.rows[self._frequent(self.column("short"), SHORT_SHARE)]

    def _boilerplate(self) -> NDArray[np.int64]:
        """Rows whose answer begins or ends as very many do."""
        import numpy as np

        heads, tails = (self._frequent(self.column(n), BOILERPLATE_SHARE) for n in ("head", "tail"))
        rows = self.rows[heads | tails]
        if len(rows):
            text = self.row(int(rows[0]))["messages"][-1]["content"]
            said = " … ".join(part for part in ends(text) if part)
            place = self.spool.place(int(rows[0]))
            one = RowExample(**{k: place[k] for k in ("file", "line", "row")}, before=excerpt(flags.masked(said)))
            self.examples["boilerplate"] = (one,)
        return np.asarray(rows)

    def _frequent(self, marks: NDArray[Any], share: float) -> NDArray[np.bool_]:
        """Where a mark other than 0 stands that more than a share of the rows have."""
        import numpy as np

        if len(marks) < SHARES_FROM:
            return np.zeros(len(marks), dtype=bool)
        _, inverse, counts = np.unique(marks, return_inverse=True, return_counts=True)
        return np.asarray((marks != 0) & (counts[inverse] > share * len(marks)))


def stats(values: NDArray[Any]) -> LengthStats:
    """Mean, median, 95th percentile (the smallest value that 95 % do not exceed), largest and sum."""
    import numpy as np

    ordered = np.sort(values.astype(np.float64)) if len(values) else np.zeros(1)
    n = len(ordered)
    p95 = ordered[max(0, -(-95 * n // 100) - 1)]
    p50 = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    total = ordered.sum()
    return LengthStats(
        mean=round(float(total / n), 3), p50=float(p50), p95=float(p95), max=float(ordered[-1]), total=float(total)
    )


def histogram(values: NDArray[Any]) -> tuple[Bin, ...]:
    """Bars of a round width to the 99th percentile; the last reaches to the largest value."""
    import numpy as np

    if not len(values):
        return ()
    top = max(1.0, float(np.quantile(values, 0.99)))
    size = 10 ** np.floor(np.log10(top / BARS)) if top >= BARS else 1.0
    width = float(next(size * step for step in (1, 2, 5, 10) if size * step * BARS >= top))
    edges = np.arange(0, top + width, width)
    counts, _ = np.histogram(np.minimum(values, edges[-1]), bins=edges)
    high = max(float(values.max()), float(edges[-1]))
    highs = [*edges[1:-1].tolist(), high]
    return tuple(
        Bin(low=float(a), high=float(b), count=int(n)) for a, b, n in zip(edges[:-1], highs, counts, strict=True)
    )


def domain_of(texts: Sequence[str], task: str = "sft") -> str:
    """The domain that most of the texts speak of, by the sentence's lexicon; `general` below `DOMAIN_SHARE`."""
    votes: Counter[str] = Counter()
    for text in texts:
        scores = domain_scores(lexicon.hits(lexicon.normalise(text[:2000]), "domain"))
        strong = {d: w for d, w in scores.items() if w >= 2}
        if strong:
            votes[max(strong, key=lambda d: (strong[d], d))] += 1
    if not votes:
        return "classification" if task == "classification" else "general"
    domain, count = max(votes.items(), key=lambda kv: (kv[1], kv[0]))
    return domain if count >= DOMAIN_SHARE * len(texts) else "general"


def shown(row: Row, task: str) -> dict[str, Any]:
    """A row in the words of CONTRACTS, with personal data blotted out."""
    said: dict[str, str] = {}
    for turn in row["messages"]:
        said.setdefault(turn["role"], turn["content"])
    first = {"user": said.get("user", ""), "assistant": said.get("assistant", "")}
    if "system" in said:
        first = {"system": said["system"], **first}
    if task == "dpo":
        first |= {"chosen": row["messages"][-1]["content"], "rejected": row["rejected_response"]}
    if row.get("positive_messages"):
        first["positive"] = row["positive_messages"][0][0]["content"]
    if "label" in row:
        first["label"] = str(row["label"])
    return {k: flags.masked(v)[:SHOWN] for k, v in first.items()}

"""What a search is replayed on: one recorded corpus, its costs, its target, and a meter of device-seconds."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoswift.decide.training import prior_rate
from autoswift.domain.plan import (
    Estimate,
    EvaluationSettings,
    ModelChoice,
    Plan,
    SearchSettings,
    ServingSettings,
    StartPoint,
    TrainingSettings,
)
from autoswift.engines.curves import DIVERGED, Curve, CurveTable, Kind
from autoswift.engines.curves.smooth import Interpolator
from autoswift.tables import table as rules_table

Parameters = Mapping[str, Any]

WIDE = (1e-5, 1e-2)
"""Learning rates that everyone but ours searches at the width that defaults are made for: three decades."""
SCRIPT = (1e-5, 1e-3)
"""Those of the plain script."""
WARMUP = 0.03
"""Share of the steps that everyone warms up."""
SWIFT = {"learning_rate": 1e-4, "effective_batch_size": 16, "lora_rank": 8, "epochs": 3}
"""ms-swift's defaults for LoRA."""


@dataclass(frozen=True)
class Ground:
    """One corpus of the table.

    Args:
        shift: 0, or a share of the rate's range by which recorded rates are moved, round the ends (the control whose
            optimum no prior knows); `mixed` permutes the recorded batches in it.
        per_token: cost of a token at the recorder's busiest pace, or else what each batch was measured to take.
        search_epochs: our plan's space has the passes in it, as that of the others has; the planner's has not, today.
        snap: answers are those of the nearest recorded configuration, else interpolated (`engines.curves.smooth`).
    """

    table: CurveTable
    corpus: str
    shift: float = 0.0
    per_token: bool = True
    search_epochs: bool = False
    snap: bool = False

    @property
    def width_factor(self) -> float:
        """By which rates grow on the recorded width, as the rule of rules.yaml has it for llama shapes."""
        rule = rules_table("rules")["learning_rate"]
        hidden = max(self.table.meta["model"]["hidden"], rule["smallest_hidden"])
        return float((rule["reference_hidden"] / hidden) ** rule["exponent"]["llama"])

    @property
    def batches(self) -> list[int]:
        return sorted({c.batch for c in self.table.configurations})

    @property
    def ranks(self) -> list[int]:
        return sorted({c.rank for c in self.table.configurations})

    def space(self, rates: tuple[float, float] = WIDE) -> dict[str, Any]:
        """What the other methods search: `learning_rate` (low, high), and choices of the others."""
        low, high = (r * self.width_factor for r in rates)
        return {
            "learning_rate": (low, high),
            "effective_batch_size": [b for b in self.batches if 4 <= b <= 32],
            "lora_rank": self.ranks[1:],
            "epochs": [e for e in (1, 2, 4, 8) if e <= self.table.meta["passes"]],
        }

    def full(self, parameters: Parameters) -> float:
        """Tokens of a whole trial."""
        return float(parameters.get("epochs") or self.guess()["epochs"]) * self.table.epoch_tokens

    def guess(self) -> dict[str, Any]:
        """Our plan's best guess, by the numbers of rules.yaml."""
        rules = rules_table("rules")
        rows = self.table.meta["rows"]
        epochs = next(r["epochs"] for r in rules["epochs"] if r["rows_below"] is None or rows < r["rows_below"])
        epochs = min(epochs, self.table.meta["passes"])
        batch = int(rules["batch"]["largest"])
        while batch > rules["batch"]["smallest"] and rows * epochs / batch < rules["batch"]["updates_wanted"]:
            batch //= 2
        return {
            "learning_rate": prior_rate(self.model(), "lora", rows * epochs / batch),
            "effective_batch_size": batch,
            "lora_rank": int(rules["lora"]["rank"]),
            "epochs": epochs,
        }

    def model(self) -> ModelChoice:
        """The recorded base."""
        hidden = self.table.meta["model"]["hidden"]
        return ModelChoice(
            id="recorded", source="folder", location="", model_type="llama", template="", parameters=1, hidden=hidden
        )

    def swift(self) -> dict[str, Any]:
        """ms-swift's defaults, the rate moved to this width like everyone's."""
        return SWIFT | {"learning_rate": SWIFT["learning_rate"] * self.width_factor}

    def recorded(self, parameters: Parameters) -> dict[str, float]:
        """A proposal in the table's words; rates beyond the recorded ones are moved to their ends."""
        rates = [c.learning_rate for c in self.table.configurations]
        low, high = math.log(min(rates)), math.log(max(rates))
        at = min(max((math.log(float(parameters["learning_rate"])) - low) / (high - low), 0.0), 1.0)
        if self.shift:
            at = (at + self.shift) % 1.0
        rank = min(max(int(parameters["lora_rank"]), self.ranks[0]), self.ranks[-1])
        return {
            "learning_rate": math.exp(low + (high - low) * at),
            "rank": rank,
            "batch": int(parameters["effective_batch_size"]),
            "warmup_ratio": WARMUP,
        }

    def curve(self, parameters: Parameters, kind: Kind) -> Curve:
        """The mean curve of a configuration: interpolated, or of the nearest recorded one."""
        asked = self.recorded(parameters)
        if self.snap:
            return self.table.curve(self.corpus, self.table.nearest(asked).number, None, kind)
        return _interpolated(self.table, self.corpus, tuple(asked.items()), kind)

    def truth(self, parameters: Parameters, tokens: float) -> float:
        """Validation loss of a trial of so many tokens, without noise: what counts. Infinite when it diverged."""
        value = self.curve(parameters, "averaged").at(tokens)
        base = float(self.table.base_nll[self.table.corpora.index(self.corpus)])
        return value if value is not None and value < base + DIVERGED else math.inf

    def noise(self, parameters: Parameters, seed: int) -> float:
        """What another seed makes of the same configuration: normal, as wide as the recorded repetitions differ."""
        asked = self.recorded(parameters)
        return random.Random(f"{seed}/{sorted(asked.items())}").gauss(0, _spread(self.table, self.corpus))  # noqa: S311

    def seen(self, parameters: Parameters, tokens: float, seed: int) -> float:
        """Validation loss that one training shows."""
        return self.truth(parameters, tokens) + self.noise(parameters, seed)

    def raw(self, parameters: Parameters, tokens: float, seed: int) -> float:
        """Validation loss of a checkpoint of a longer trial, at constant rate."""
        value = self.curve(parameters, "nll").at(tokens)
        return math.inf if value is None else value + self.noise(parameters, seed)

    def loss(self, parameters: Parameters, tokens: float) -> float | None:
        """Training loss."""
        return self.curve(parameters, "train").at(tokens)

    def seconds(self, parameters: Parameters, tokens: float) -> float:
        """Device-seconds of so many tokens."""
        if self.per_token:
            return tokens * self.table.token_seconds()
        batch = int(parameters["effective_batch_size"])
        return tokens / (batch * self.table.row_tokens) * self.table.step_seconds(batch)

    def unit(self) -> float:
        """Device-seconds of our default trial, in which results are told."""
        guess = self.guess()
        return self.seconds(guess, self.full(guess))

    def best_of_64(self, draws: int = 200) -> float:
        """Median over many draws of the best true value among 64 random configurations."""
        found = []
        for number in range(draws):
            draw = random.Random(f"best-of-64/{number}")  # noqa: S311
            rows = [draw_one(self.space(), draw) for _ in range(64)]
            found.append(min(self.truth(row, self.full(row)) for row in rows))
        return sorted(found)[draws // 2]

    def plan(self, seed: int, trials: int, points: Sequence[StartPoint], rungs: Sequence[float]) -> Plan:
        """The plan that our search is given: space and prior as the planner sets them."""
        guess = self.guess()
        rules = rules_table("rules")
        span, rate, batch = float(rules["learning_rate"]["span"]), guess["learning_rate"], guess["effective_batch_size"]
        full = round(self.full(guess))
        batches = sorted({max(1, batch // 4), max(1, batch // 2), batch, batch * 2, batch * 4})
        space = {
            "learning_rate": {"low": rate / span, "high": rate * span, "log": True, "prior": rate},
            "effective_batch_size": {"choices": batches, "prior": batch},
            "lora_rank": {"choices": list(rules["lora"]["ranks"]), "prior": guess["lora_rank"]},
        }
        if self.search_epochs:
            space["epochs"] = {"choices": self.space()["epochs"], "prior": guess["epochs"]}
        search = SearchSettings(
            trials=trials, space=space, trial_tokens=full, final_tokens=full, promote=True,
            tokens_per_row=float(self.table.row_tokens), answer_seconds=0.0, epochs=float(guess["epochs"]),
            reserve_seconds=0.0, metric=METRIC, start_points=tuple(points),
            rungs=tuple(round(full * share) for share in rungs),
        )  # fmt: skip
        return _plan(seed, search, guess, self.model())


METRIC = "likelihood"


def score(nll: float) -> float:
    """What is maximised: probability of a token, in percent."""
    return 100 * math.exp(-nll)


@functools.lru_cache(maxsize=8)
def _interpolator(table: CurveTable) -> Interpolator:
    return Interpolator(table)


@functools.lru_cache(maxsize=50_000)
def _interpolated(table: CurveTable, corpus: str, asked: tuple[tuple[str, float], ...], kind: Kind) -> Curve:
    made = _interpolator(table)
    values = made.values(corpus, dict(asked), kind)
    return Curve(made.tokens, values, float(table.base_nll[table.corpora.index(corpus)]))


@functools.lru_cache(maxsize=64)
def _spread(table: CurveTable, corpus: str) -> float:
    return table.noise(corpus)


def draw_one(space: Mapping[str, Any], draw: random.Random) -> dict[str, Any]:
    """Uniform; the rate in its logarithm."""
    low, high = space["learning_rate"]
    made = {"learning_rate": math.exp(draw.uniform(math.log(low), math.log(high)))}
    return made | {k: draw.choice(v) for k, v in space.items() if k != "learning_rate"}


@dataclass
class Meter:
    """What a replay has spent and what its best model so far is truly worth.

    Attributes:
        limit: device-seconds after which nothing is begun.
        enough: true value at which the replay may end, since all that is asked of it is known.
        trace: (device-seconds, true value) each time another model became the best by what was seen.
        charges: every single cost, for the accounts.
    """

    ground: Ground
    seed: int
    limit: float
    enough: float = -math.inf
    spent: float = 0.0
    seen: float = math.inf
    trace: list[tuple[float, float]] = field(default_factory=list)
    charges: list[float] = field(default_factory=list)
    trials: int = 0

    @property
    def over(self) -> bool:
        return self.spent >= self.limit or bool(self.trace and self.trace[-1][1] <= self.enough)

    def charge(self, parameters: Parameters, tokens: float) -> None:
        cost = self.ground.seconds(parameters, tokens)
        self.charges.append(cost)
        self.spent += cost

    def model(self, parameters: Parameters, tokens: float) -> float:
        """A trained model: the best so far if it looks so. Returns what was seen of it."""
        value = self.ground.seen(parameters, tokens, self.seed)
        if value < self.seen:
            self.seen = value
            self.trace.append((self.spent, self.ground.truth(parameters, tokens)))
        return value

    def train(self, parameters: Parameters) -> float:
        """A whole trial."""
        tokens = self.ground.full(parameters)
        self.trials += 1
        self.charge(parameters, tokens)
        return self.model(parameters, tokens)

    def reached(self, target: float) -> float | None:
        """Device-seconds at which the best model was first as good as the target, within the limit."""
        return next((at for at, value in self.trace if value <= target and at <= self.limit * (1 + 1e-9)), None)

    def final(self) -> float:
        """True value of the model that it ends with."""
        inside = [value for at, value in self.trace if at <= self.limit * (1 + 1e-9)]
        return inside[-1] if inside else math.inf


Method = Callable[[Meter], None]


def _plan(seed: int, search: SearchSettings, guess: Mapping[str, Any], model: ModelChoice) -> Plan:
    training = TrainingSettings(
        method="lora", precision="float32", learning_rate=guess["learning_rate"], lr_scheduler_type="constant",
        warmup_ratio=0.03, weight_decay=0.0, max_grad_norm=1.0, lora_rank=guess["lora_rank"],
        lora_alpha=2 * guess["lora_rank"], lora_dropout=0.0, target_modules="all-linear", max_length=128,
        per_device_train_batch_size=guess["effective_batch_size"], gradient_accumulation_steps=1,
        gradient_checkpointing=False, optimizer="adamw_torch", threads=1,
    )  # fmt: skip
    return Plan(
        revision=1, cause="replay", seed=seed, training=training, search=search, decisions=(),
        model=model,
        evaluation=EvaluationSettings(
            metric=METRIC, validation_rows=1, test_rows=1, max_new_tokens=1, generation_batch_size=1
        ),
        serving=ServingSettings(
            engine="none", format="", context=1, parallel=1, load_parallel=(), load_requests=()
        ),
        estimate=Estimate(
            peak_memory_bytes=0, memory_limit_bytes=1, tokens_per_second=1.0,
            stage_seconds={"search": 1.0, "train": 1.0},
        ),
    )  # fmt: skip

"""What a search is replayed on: one recorded corpus, its costs, its target, and a meter of device-seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from autoswift.engines.curves import Configuration, CurveTable
from autoswift.tables import table as rules_table

Parameters = Mapping[str, Any]

WIDE = (1e-5, 1e-2)
"""Learning rates that everyone but ours searches at the width that defaults are made for: three decades."""
SCRIPT = (1e-5, 1e-3)
"""Those of the plain script."""
SWIFT = {"learning_rate": 1e-4, "effective_batch_size": 16, "lora_rank": 8, "epochs": 3}
"""ms-swift's defaults for LoRA."""
DEFAULT_WIDTH = 2000.0
"""Hidden size at which those rates are meant: the reference of the rule in rules.yaml."""


@dataclass(frozen=True)
class Ground:
    """One corpus of the table.

    Args:
        shift: 0, or a share of the rate's range by which recorded rates are moved, round the ends (the control whose
            optimum no prior knows); `mixed` permutes the recorded batches in it.
        per_token: cost of a token at the recorder's busiest pace, or else what each batch was measured to take.
        search_epochs: our plan's space has the passes in it, as that of the others has.
    """

    table: CurveTable
    corpus: str
    shift: float = 0.0
    per_token: bool = True
    search_epochs: bool = True

    @property
    def width_factor(self) -> float:
        """By which rates grow on the recorded width: the rule of rules.yaml (exponent of llama shapes), unclamped."""
        exponent = float(rules_table("rules")["learning_rate"]["exponent"]["llama"])
        return float((DEFAULT_WIDTH / self.table.meta["model"]["hidden"]) ** exponent)

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
        """Our plan's best guess, by the numbers of rules.yaml with the width's bound lifted."""
        rules = rules_table("rules")
        rate = float(rules["learning_rate"]["base"]) * float(rules["learning_rate"]["lora_multiplier"])
        rows = self.table.meta["rows"]
        epochs = next(r["epochs"] for r in rules["epochs"] if r["rows_below"] is None or rows < r["rows_below"])
        batch = int(rules["batch"]["largest"])
        while batch > 2 and rows * epochs / batch < float(rules["batch"]["updates_wanted"]):
            batch //= 2
        return {
            "learning_rate": float(f"{rate * self.width_factor:.3g}"),
            "effective_batch_size": batch,
            "lora_rank": int(rules["lora"]["rank"]),
            "epochs": epochs,
        }

    def swift(self) -> dict[str, Any]:
        """ms-swift's defaults, the rate moved to this width like everyone's."""
        return SWIFT | {"learning_rate": SWIFT["learning_rate"] * self.width_factor}

    def snapped(self, parameters: Parameters) -> Configuration:
        """The recorded configuration that stands for a proposal."""
        rate = float(parameters["learning_rate"])
        if self.shift:
            rates = [c.learning_rate for c in self.table.configurations]
            low, span = math.log(min(rates)), math.log(max(rates) / min(rates))
            rate = math.exp(low + span * (((math.log(rate) - low) / span + self.shift) % 1.0))
        return self.table.nearest(
            {
                "learning_rate": rate,
                "rank": parameters["lora_rank"],
                "batch": parameters["effective_batch_size"],
                "warmup_ratio": 0.03,
            }
        )

    def seen(self, parameters: Parameters, tokens: float, seed: int) -> float:
        """Validation loss that one training shows: of one recorded repetition, by seed and configuration."""
        row = self.snapped(parameters).number
        return self.table.final(self.corpus, row, tokens, repetition(seed, row))

    def truth(self, parameters: Parameters, tokens: float) -> float:
        """The same over all repetitions: what counts."""
        return self.table.final(self.corpus, self.snapped(parameters).number, tokens)

    def raw(self, parameters: Parameters, tokens: float, seed: int) -> float:
        """Validation loss of a checkpoint of a longer trial, at constant rate."""
        row = self.snapped(parameters).number
        value = self.table.curve(self.corpus, row, repetition(seed, row), "nll").at(tokens)
        return math.inf if value is None else value

    def loss(self, parameters: Parameters, tokens: float, seed: int) -> float | None:
        """Training loss."""
        row = self.snapped(parameters).number
        return self.table.curve(self.corpus, row, repetition(seed, row), "train").at(tokens)

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
        space = {
            "learning_rate": {"low": rate / span, "high": rate * span, "log": True, "prior": rate},
            "effective_batch_size": {"choices": sorted({max(1, batch // 2), batch, batch * 2}), "prior": batch},
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
        return _plan(seed, search, guess)


METRIC = "likelihood"


def score(nll: float) -> float:
    """What is maximised: probability of a token, in percent."""
    return 100 * math.exp(-nll)


def repetition(seed: int, row: int) -> int:
    """Which recorded seed a replay sees of a configuration."""
    return random.Random(f"{seed}/{row}").randrange(1 << 16)  # noqa: S311


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
        trace: (device-seconds, true value) each time another model became the best by what was seen.
        charges: every single cost, for the accounts.
    """

    ground: Ground
    seed: int
    limit: float
    spent: float = 0.0
    seen: float = math.inf
    trace: list[tuple[float, float]] = field(default_factory=list)
    charges: list[float] = field(default_factory=list)
    trials: int = 0

    @property
    def over(self) -> bool:
        return self.spent >= self.limit

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


def _plan(seed: int, search: SearchSettings, guess: Mapping[str, Any]) -> Plan:
    training = TrainingSettings(
        method="lora", precision="float32", learning_rate=guess["learning_rate"], lr_scheduler_type="constant",
        warmup_ratio=0.03, weight_decay=0.0, max_grad_norm=1.0, lora_rank=guess["lora_rank"],
        lora_alpha=2 * guess["lora_rank"], lora_dropout=0.0, target_modules="all-linear", max_length=128,
        per_device_train_batch_size=guess["effective_batch_size"], gradient_accumulation_steps=1,
        gradient_checkpointing=False, optimizer="adamw_torch", threads=1,
    )  # fmt: skip
    return Plan(
        revision=1, cause="replay", seed=seed, training=training, search=search, decisions=(),
        model=ModelChoice(id="recorded", source="folder", location="", model_type="llama", template="", parameters=1),
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

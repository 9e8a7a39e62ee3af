"""The ordered decisions, and the settings that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from autoswift.domain.budget import Budget
from autoswift.domain.decision import Decision

Method = Literal["full", "lora", "qlora"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """The base model, as the rest of the run needs it.

    Attributes:
        id: hub id, catalogue name or folder name.
        source: huggingface, modelscope, packaged or folder.
        location: hub id, or the folder's path.
        parameters: number of weights. active: of them, those that a token goes through in a mixture of experts; else 0.
        layers, hidden, heads, kv_heads, intermediate, vocabulary: shape; 0 when unknown.
        context: longest input in tokens.
    """

    id: str
    source: Literal["huggingface", "modelscope", "packaged", "folder"]
    location: str
    model_type: str
    template: str
    parameters: int
    active: int = 0
    layers: int = 0
    hidden: int = 0
    heads: int = 0
    kv_heads: int = 0
    intermediate: int = 0
    vocabulary: int = 0
    head_dim: int = 0
    tied: bool | None = None
    context: int = 2048
    languages: tuple[str, ...] = ()
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Settings shared by all trials; a trial's own parameters override them by name.

    Attributes:
        attention: swift's `attn_impl`. use_liger_kernel: Liger's fused kernels.
        environment: variables of the training process. flags: further ones of swift's, both by the device.
        devices, sharding: how many devices share one training, and how: none, ddp, zero2, zero3 or fsdp.
        replay_share: of the rows trained on, those that the base answered itself, so that it forgets less.
    """

    method: Method
    precision: Literal["float32", "bfloat16", "float16"]
    learning_rate: float
    lr_scheduler_type: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    target_modules: str
    max_length: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    optimizer: str
    threads: int
    engine: str = "swift"
    attention: str = "sdpa"
    use_liger_kernel: bool = False
    devices: int = 1
    sharding: str = "none"
    environment: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    replay_share: float = 0.0

    @property
    def effective_batch_size(self) -> int:
        """Rows in one optimizer step, of all devices that share the training."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.devices


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPoint:
    """A configuration worth trying before any sampler is asked.

    Attributes:
        parameters: the searched settings; what is missing is the plan's own.
        origin: `prior` (the plan's rules) or `knowledge` (earlier runs on similar tasks).
        weight: 0 to 1, how far it is trusted: similarity of the task times what it was worth there.
        because: in words, for the trial's record.
    """

    parameters: dict[str, Any]
    origin: str
    weight: float = 1.0
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """What the search may try and how long a trial is.

    Attributes:
        space: parameter name to {"low", "high", "log"} or {"choices"}.
        trial_tokens, final_tokens: tokens trained on by one trial, and by the final training.
        tokens_per_row: mean length of a training row, so that tokens become steps.
        answer_seconds: what answering the validation rows takes after a trial's training, by formula.
        promote: trials are trained in full, so the best one is the result and no final training follows.
        reserve_seconds: kept free at the end of the wall-clock for merge, evaluation, serving.
        start_seconds: until a fresh process's first step, by formula; 0 where it was not estimated.
        start_points: tried first, in this order.
        memory_probe: two steps on the longest rows come before the search.
        ray_address: of the cluster that the executor `ray` joins; empty starts one on this machine.
        device_share: the part of a device that one trial gets there, 1 for the whole.
        lanes: trials at once, each on devices of its own.
        packed: trials that share a resident base on each device; 0 gives each trial a process of its own.
        rungs: tokens at which short trials end, ascending, the whole trial last; empty where all are trained in full.
        objectives: `quality` first, then `latency` and `size` where the user asked for them.
    """

    trials: int
    space: dict[str, dict[str, Any]]
    trial_tokens: int
    final_tokens: int
    tokens_per_row: float
    promote: bool
    answer_seconds: float
    epochs: float
    reserve_seconds: float
    metric: str
    maximise: bool = True
    executor: str = "local"
    ray_address: str = ""
    device_share: float = 1.0
    start_seconds: float = 0.0
    start_points: tuple[StartPoint, ...] = ()
    memory_probe: bool = False
    rungs: tuple[int, ...] = ()
    lanes: int = 1
    packed: int = 0
    objectives: tuple[str, ...] = ("quality",)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How answers are generated and counted.

    Attributes:
        validation_rows, test_rows: rows that get a generated answer.
        bootstrap: resamples behind an interval.
        validation_answers: trials answer the validation rows; else only the rows' likelihood is measured.
    """

    metric: str
    validation_rows: int
    test_rows: int
    max_new_tokens: int
    generation_batch_size: int
    confidence: float = 0.95
    bootstrap: int = 2000
    validation_answers: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """How the result is served and load-tested; engine `none` serves nothing."""

    engine: str
    format: str
    context: int
    parallel: int
    load_parallel: tuple[int, ...]
    load_requests: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """What a stretch of a run costs.

    Attributes:
        seconds: of wall-clock. device_hours: times the devices that are held.
        money: None where no price is known.
        watt_hours: of the devices and the machine around them, at the wall.
    """

    seconds: float
    device_hours: float
    money: float | None
    watt_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """What the whole run is expected to cost.

    Attributes:
        money: None where no price is known. limit: what may be spent; None is unlimited.
        basis: whose price it is: option, environment, list or none. source: the same in words.
        price_per_device_hour: 0 where unknown, or where the user said so. devices: that are held.
        stages: the parts, which sum to the whole; `spent` is what was gone when the plan was made anew.
    """

    money: float | None
    currency: str
    basis: Literal["option", "environment", "list", "none"]
    source: str
    price_per_device_hour: float
    devices: int
    device_hours: float
    watt_hours: float
    limit: float | None = None
    stages: dict[str, StageCost] = field(default_factory=dict)

    def bound(self, budget: Budget) -> Budget:
        """The budget with the price and the devices of this plan, by which its money becomes time."""
        return replace(budget, price_per_device_hour=self.price_per_device_hour, devices=self.devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the plan expects, in bytes, seconds and money; the report sets it beside what was measured.

    Attributes:
        cost: None in plans of before costs were counted.
    """

    peak_memory_bytes: int
    memory_limit_bytes: int
    tokens_per_second: float
    stage_seconds: dict[str, float] = field(default_factory=dict)
    cost: CostEstimate | None = None

    @property
    def total_seconds(self) -> float:
        """Of all stages."""
        return sum(self.stage_seconds.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySettings:
    """What recovery may change when a training goes wrong.

    Attributes:
        allow_truncate: rows may be cut shorter: the user's consent.
        liger: Liger's kernels run here. bits: 4-bit weights and optimizers with 8-bit states run here.
        bfloat16: the device computes it.
        other_model: the model was chosen, not named by the user: a smaller one may take its place.
    """

    allow_truncate: bool = False
    liger: bool = False
    bits: bool = False
    bfloat16: bool = False
    other_model: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A pure function of the profiles, the catalogue, the knowledge and a seed.

    Attributes:
        revision: 1, 2, …; nothing edits a plan in place.
        cause: why this revision was made.
    """

    revision: int
    cause: str
    seed: int
    model: ModelChoice
    training: TrainingSettings
    search: SearchSettings
    evaluation: EvaluationSettings
    serving: ServingSettings
    estimate: Estimate
    decisions: tuple[Decision, ...]
    version: int = 1
    recovery: RecoverySettings = field(default_factory=RecoverySettings)

    @property
    def fixed(self) -> frozenset[str]:
        """Settings that the user fixed: nothing changes them without asking."""
        return frozenset(d.name for d in self.decisions if d.source == "user")

    def decision(self, name: str) -> Decision:
        """The decision of that name.

        Raises:
            KeyError: when the plan has none.
        """
        for one in self.decisions:
            if one.name == name:
                return one
        raise KeyError(name)

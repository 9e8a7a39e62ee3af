"""Packed trials: each trains to the number as it would alone, whoever shares the base with it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import packed_lab as lab
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import nn

from autoswift.engines.children import packed_checkpoint
from autoswift.engines.children.packed_data import Order, stacked
from autoswift.engines.children.packed_evaluation import eval_loss
from autoswift.engines.children.packed_graphs import bucket
from autoswift.engines.children.packed_head import Head, Refused
from autoswift.engines.children.packed_layers import RowPlan, Target, convert
from autoswift.engines.children.packed_trial import Settings

EXACT = 1e-5

VARIED: list[dict[str, Any]] = [
    {"lora_rank": 4, "learning_rate": 1e-3},
    {"lora_rank": 9, "learning_rate": 2e-3, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 1},
    {"lora_rank": 2, "max_grad_norm": 0.05, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 3},
]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same_as_alone(base: Any, family: str, rows: lab.Rows, run: lab.Run, trials: list[Any]) -> None:
    for one in trials:
        steps = len(run.losses[one.number])
        losses, weights = lab.alone(base, family, rows, one.request["settings"], steps)
        assert run.losses[one.number] == pytest.approx(losses, abs=EXACT)
        assert lab.far(weights, run.weights[one.number]) <= EXACT


@pytest.mark.parametrize("family", sorted(lab.FAMILIES))
def test_trials_of_all_kinds_train_as_alone_while_others_join_and_leave(family: str) -> None:
    base, rows = lab.model(family), lab.Rows.some()
    run = lab.Run(lab.pack(copy.deepcopy(base), family))
    trials = [lab.trial(n, rows, **VARIED[n], max_steps=9) for n in range(3)]
    trials.append(lab.trial(3, rows, lora_rank=16, use_rslora=True, max_steps=3, weight_decay=0.0, adam_beta2=0.99))
    for one in trials[:3]:
        run.pack.add(one)
    run.steps(0, 7)
    leaver = trials[2]
    run.steps(2, 7)
    run.end(leaver)
    run.pack.add(trials[3])  # its larger rank lays all rows out anew
    run.until_empty()
    assert len(run.losses[2]) == 7
    same_as_alone(base, family, rows, run, trials)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_dora_beside_plain_adapters(family: str) -> None:
    base, rows = lab.model(family), lab.Rows.some()
    run = lab.Run(lab.pack(copy.deepcopy(base), family))
    trials = [
        lab.trial(0, rows, max_steps=8),
        lab.trial(1, rows, use_dora=True, lora_rank=6, max_steps=6),
        lab.trial(2, rows, use_dora=True, use_rslora=True, max_steps=6, per_device_train_batch_size=1),
    ]
    run.pack.add(trials[0])
    run.steps(0, 2)
    for one in trials[1:]:
        run.pack.add(one)
    run.until_empty()
    same_as_alone(base, family, rows, run, trials)
    start = lab.alone(base, family, rows, trials[1].request["settings"], 0)[1]
    moved = {k for k, v in run.weights[1].items() if "magnitude" in k and float((v - start[k]).abs().max()) > 1e-4}
    assert moved


def test_a_warmup_stable_decay_schedule_and_a_cosine_side_by_side() -> None:
    base, rows = lab.model(), lab.Rows.some()
    run = lab.Run(lab.pack(copy.deepcopy(base)))
    trials = [
        lab.trial(0, rows, lr_scheduler_type="warmup_stable_decay", stable_steps=7, max_steps=10),
        lab.trial(1, rows, lr_scheduler_type="cosine", warmup_ratio=0.0, max_steps=9),
    ]
    for one in trials:
        run.pack.add(one)
    run.until_empty()
    same_as_alone(base, "llama", rows, run, trials)
    assert trials[0].scheduler.get_last_lr() == [0.0]


def test_four_bit_weights_train_as_alone() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    base, rows = lab.model(), lab.Rows.some()
    for parent in list(base.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                made = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=torch.float32, quant_type="nf4"
                )
                made.weight = bnb.nn.Params4bit(
                    child.weight.data.clone(), requires_grad=False, quant_type="nf4", module=made
                ).to("cpu")
                setattr(parent, name, made)
    base.is_loaded_in_4bit = True
    trials = [lab.trial(n, rows, **VARIED[n], max_steps=5) for n in range(2)]
    expected = [lab.alone(base, "llama", rows, one.request["settings"]) for one in trials]
    run = lab.Run(lab.pack(base))
    for one in trials:
        run.pack.add(one)
    run.until_empty()
    for one, (losses, weights) in zip(trials, expected, strict=True):
        assert run.losses[one.number] == pytest.approx(losses, abs=EXACT)
        assert lab.far(weights, run.weights[one.number]) <= EXACT


def test_a_trial_that_diverges_changes_no_bit_of_its_neighbours() -> None:
    base, rows = lab.model(), lab.Rows.some()

    def run(poison: bool) -> lab.Run:
        made = lab.Run(lab.pack(copy.deepcopy(base)))
        trials = [lab.trial(n, rows, max_steps=6) for n in range(4)]
        for one in trials:
            made.pack.add(one)
        made.steps(0, 2)
        if poison:
            slot = trials[1].slot
            assert slot is not None
            made.pack.bank.values[slot].fill_(float("nan"))
        while trials[1].step < 3:
            made.tick()
        if not poison:
            made.end(trials[1])
        assert trials[1] not in made.pack.trials
        made.until_empty()
        return made

    sound, broken = run(False), run(True)
    assert torch.isnan(torch.tensor(broken.losses[1][-1]))
    for number in (0, 2, 3):
        assert sound.losses[number] == broken.losses[number]
        assert lab.far(sound.weights[number], broken.weights[number]) == 0.0


def test_gradients_that_are_nan_are_dropped_and_end_a_trial_after_three() -> None:
    rows = lab.Rows.some()
    one = lab.trial(0, rows)
    assert [one.watch(1.0, float("nan")), one.reason] == ["nan_gradient", None]
    assert one.watch(1.0, 2.0) is None
    for _ in range(3):
        assert one.watch(1.0, float("nan")) == "nan_gradient"
    assert one.reason == "nan"


def test_out_of_memory_in_a_pack_of_sixteen_loses_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    base, rows = lab.model(), lab.Rows.some()
    pack = lab.pack(copy.deepcopy(base), capacity=16)
    run = lab.Run(pack)
    trials = [lab.trial(n, rows, max_steps=4, **(VARIED[n % 3] | {"learning_rate": 1e-3 * (n + 1)})) for n in range(16)]
    for one in trials:
        pack.add(one)
    body, calls = pack._body, []

    def short(inputs: Any) -> Any:
        calls.append(len(pack.trials))
        found = body(inputs)  # gradients are half added already when memory runs out
        if len(calls) > 3 and len(pack.trials) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return found

    monkeypatch.setattr(pack, "_body", short)
    while pack.trials or pack.waiting:
        try:
            run.tick()
        except torch.OutOfMemoryError:
            before = [one.step for one in trials]
            pack.shrink()
            assert [one.step for one in trials] == before
            assert (len(pack.trials), len(pack.waiting), pack.capacity) == (8, 8, 8)
    assert [one.step for one in trials] == [4] * 16
    same_as_alone(base, "llama", rows, run, trials)


def test_dropout_has_a_stream_of_its_own_and_survives_checkpointing() -> None:
    base, rows = lab.model(), lab.Rows.some()
    longer = lab.Rows.some(longest=60, seed=5)

    def run(neighbours: int, *, checkpointing: bool = False, share: float = 0.3) -> list[float]:
        model = copy.deepcopy(base)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        made = lab.Run(lab.pack(model))
        for n in range(neighbours):
            made.pack.add(lab.trial(n, longer, lora_dropout=0.1 * n, max_steps=6))
        made.pack.add(lab.trial(9, rows, lora_dropout=share, max_steps=6))
        made.until_empty()
        return made.losses[9]

    alone = run(0)
    assert run(3) == pytest.approx(alone, abs=EXACT)
    assert run(1, checkpointing=True) == pytest.approx(alone, abs=EXACT)
    assert max(abs(a - b) for a, b in zip(run(0, share=0.0), alone, strict=True)) > 1e-3


@pytest.mark.parametrize("dora", [False, True])
def test_a_checkpoint_goes_on_and_is_a_plain_peft_adapter(tmp_path: Path, dora: bool) -> None:
    base, rows = lab.model(), lab.Rows.some()
    run = lab.Run(lab.pack(copy.deepcopy(base)))
    kind: dict[str, Any] = {"use_dora": dora, "lora_rank": 5, "max_steps": 8}
    one = lab.trial(1, rows, tmp_path, **kind)
    run.pack.add(lab.trial(0, rows, lora_rank=16))
    run.pack.add(one)
    run.steps(1, 5)
    place = packed_checkpoint.save(one, run.pack.bank.plan, "base", lab.targets("llama"))
    assert place.name == "checkpoint-5"
    assert not list(tmp_path.glob("*.part"))
    slot = one.slot
    assert slot is not None
    ours = eval_loss(run.pack, [one], list(rows), 4)[1]
    run.until_empty()

    tuned = PeftModel.from_pretrained(copy.deepcopy(base), str(place)).eval()
    losses = []
    for row in rows:
        logits = tuned(input_ids=torch.tensor([row.ids])).logits
        losses.append(float(nn.functional.cross_entropy(logits[0, :-1], torch.tensor(row.labels[1:]))))
    assert ours == pytest.approx(sum(losses) / len(losses), abs=EXACT)

    other = lab.Run(lab.pack(copy.deepcopy(base)))
    again = lab.trial(1, rows, tmp_path, **kind)
    other.pack.fit([again])
    packed_checkpoint.load(again, other.pack.bank.plan, place)
    other.pack.add(again)
    other.until_empty()
    assert other.losses[1] == pytest.approx(run.losses[1][5:], abs=EXACT)
    assert lab.far(other.weights[1], run.weights[1]) <= EXACT


def test_a_checkpoint_of_another_rank_or_kind_is_refused(tmp_path: Path) -> None:
    rows = lab.Rows.some()
    run = lab.Run(lab.pack(lab.model()))
    one = lab.trial(1, rows, tmp_path)
    run.pack.add(one)
    run.tick()
    place = packed_checkpoint.save(one, run.pack.bank.plan, "base", lab.targets("llama"))
    with pytest.raises(Refused, match="rank"):
        packed_checkpoint.load(lab.trial(2, rows, lora_rank=8), run.pack.bank.plan, place)
    (place / packed_checkpoint.STATE).unlink()
    with pytest.raises(Refused, match="no state"):
        packed_checkpoint.load(lab.trial(2, rows), run.pack.bank.plan, place)


def test_what_cannot_be_packed_says_why() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(Refused) as found:
        stacked(lab.model().half(), lab.targets("llama"), cpu)
    assert found.value.reason == "precision"
    with pytest.raises(Refused) as found:
        stacked(lab.model(), ["embed_tokens"], cpu)
    assert found.value.reason == "targets"
    dropping = lab.model()
    dropping.model.layers[0].mlp.act_fn = nn.Sequential(nn.SiLU(), nn.Dropout(0.1))
    with pytest.raises(Refused) as found:
        stacked(dropping, lab.targets("llama"), cpu)
    assert found.value.reason == "dropout"
    scaled = lab.model()
    scaled.lm_head.register_forward_hook(lambda module, args, out: out * 0.5)  # as some families scale their logits
    with pytest.raises(Refused) as found:
        Head(scaled).check()
    assert found.value.reason == "architecture"
    for settings_, reason in (
        ({"optimizer": "adamw_bnb_8bit"}, "optimizer"),
        ({"use_dora": True, "lora_dropout": 0.1}, "dora_dropout"),
    ):
        with pytest.raises(Refused) as found:
            Settings.of({"max_steps": 3, **settings_})
        assert found.value.reason == reason


@given(rows=st.integers(1, 40), batch=st.integers(1, 7), accumulation=st.integers(1, 5), steps=st.integers(1, 30))
@settings(max_examples=60)
def test_every_epoch_sees_every_row_once(rows: int, batch: int, accumulation: int, steps: int) -> None:
    order = Order(rows, batch, accumulation, seed=3)
    seen = [n for step in range(order.updates) for part in order.step(step) for n in part]
    assert sorted(seen) == list(range(rows))
    again = Order(rows, batch, accumulation, seed=3)
    assert again.step(steps) == order.step(steps)  # also without the steps before it
    assert all(len(part) <= batch for part in order.step(steps))


@given(rank=st.integers(1, 9), more=st.integers(0, 9), dora=st.booleans())
@settings(max_examples=40)
def test_a_row_survives_another_plan(rank: int, more: int, dora: bool) -> None:
    targets = [Target("a", 3, 5, None), Target("b", 7, 2, None)]
    small, large = RowPlan(targets, rank, dora=dora), RowPlan(targets, rank + more, dora=True)
    row = torch.zeros(small.size)
    for _, a, b, m in small.split(row):
        for view in (a, b, m):
            if view is not None:
                view.copy_(torch.rand(view.shape))
    assert torch.equal(convert(convert(row, small, large), large, small), row)


@given(st.integers(1, 20_000))
def test_a_recorded_length_has_room_and_little_padding(length: int) -> None:
    room = bucket(length)
    assert length <= room <= max(length * 1.25, length + 31)
    assert bucket(room) == room

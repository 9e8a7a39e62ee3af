"""Money and energy: what a plan costs, what money buys, and what a run has spent, failed attempts included."""

from __future__ import annotations

import ctypes
import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decide import CPU, OFFLINE, ONLINE, RTX, inputs, plan_or_error

import autoswift
from autoswift.catalog.models import find
from autoswift.cli.show import plan_view
from autoswift.decide.inputs import Inputs
from autoswift.decide.planner import make_plan
from autoswift.decide.stages import explained_plan
from autoswift.domain.budget import Budget
from autoswift.domain.plan import CostEstimate, Plan
from autoswift.domain.profile import GIB, Device
from autoswift.errors import InputError
from autoswift.hardware.money import VARIABLE, amount, machine_watts, money_terms, priced, wall_watt_hours
from autoswift.report.costs import line
from autoswift.report.spent import Spent, spent, spent_of, stage_times
from autoswift.run.clock import RunClock
from autoswift.tables import use_language
from autoswift.testing.example_plan import machine
from autoswift.testing.runs import synthetic_run

A10 = Device(kind="cuda", name="NVIDIA A10", memory_bytes=24 * GIB, free_bytes=22 * GIB, bf16=True, tflops=60.0)


def asked(device: Device, budget: Budget, *, rows: int = 500, model: str = "", copies: int = 1) -> Inputs:
    """A task with a budget, the model named so that money is traded against trials alone."""
    made = inputs(device, OFFLINE if device.kind == "cpu" else ONLINE, rows, budget=budget)
    devices = tuple(replace(device, index=n) for n in range(copies))
    made = replace(made, hardware=replace(made.hardware, devices=devices))
    if copies > 1:  # the user's own folder: the catalogue's choice looks at one card
        return replace(made, folder=find(model))
    return replace(made, models=(find(model),), task=replace(made.task, model=model)) if model else made


places = st.sampled_from([(CPU, "", 1), (A10, "qwen2.5-1.5b-instruct", 1), (RTX, "qwen3-8b", 1), (A10, "qwen3-32b", 4)])


@given(places, st.floats(0.001, 50), st.integers(1, 20), st.integers(60, 20_000))
@settings(max_examples=60, deadline=None)
def test_the_predicted_cost_never_exceeds_the_money(place: Any, money: float, trials: int, rows: int) -> None:
    device, model, copies = place
    made = plan_or_error(asked(device, Budget(trials=trials, money=money), rows=rows, model=model, copies=copies))
    if not isinstance(made, Plan):
        assert isinstance(made, InputError)
        assert made.fix
        return
    cost = made.estimate.cost
    assert cost is not None
    assert cost.money is not None
    assert cost.money <= money
    assert cost.limit == money
    assert cost.devices == made.training.devices * made.search.lanes
    assert math.isclose(cost.money, math.fsum(one.money or 0 for one in cost.stages.values()), abs_tol=1e-5)
    assert math.isclose(cost.device_hours, math.fsum(one.device_hours for one in cost.stages.values()), abs_tol=1e-5)
    assert math.isclose(cost.watt_hours, math.fsum(one.watt_hours for one in cost.stages.values()), rel_tol=1e-3)
    times = {name: seconds for name, seconds in made.estimate.stage_seconds.items() if seconds > 0}
    assert {name: one.seconds for name, one in cost.stages.items()} == pytest.approx(times, abs=0.06)


@given(places, st.floats(0.001, 30), st.floats(0.001, 30), st.integers(60, 5_000))
@settings(max_examples=60, deadline=None)
def test_more_money_never_gives_fewer_trials(place: Any, less: float, more: float, rows: int) -> None:
    device, model, copies = place
    less, more = sorted((less, more))
    poor, rich = (
        plan_or_error(asked(device, Budget(trials=8, money=one), rows=rows, model=model, copies=copies))
        for one in (less, more)
    )
    if isinstance(poor, Plan):
        assert isinstance(rich, Plan)
        assert rich.search.trials >= poor.search.trials


def test_money_cuts_trials_and_tokens_and_says_so() -> None:
    free = make_plan(asked(A10, Budget(), rows=5000, model="qwen2.5-1.5b-instruct"))
    short = make_plan(asked(A10, Budget(money=0.12), rows=5000, model="qwen2.5-1.5b-instruct"))
    assert short.search.trials * short.search.trial_tokens < free.search.trials * free.search.trial_tokens
    assert "$0.12" in short.decision("cost").because
    assert "A10" in short.decision("cost").evidence[0].text


def test_too_little_money_is_refused_with_what_would_do() -> None:
    given_inputs = asked(A10, Budget(money=0.01), model="qwen2.5-1.5b-instruct")
    with pytest.raises(InputError, match="does not pay for even one short trial") as caught:
        make_plan(given_inputs)
    assert "NVIDIA A10" in caught.value.why
    enough = caught.value.fix.partition("--budget-money ")[2].partition("USD")[0]
    assert isinstance(make_plan(asked(A10, Budget(money=float(enough)), model="qwen2.5-1.5b-instruct")), Plan)


def test_too_little_money_for_any_model_names_the_money() -> None:
    with pytest.raises(InputError, match="does not pay for even one short trial"):
        make_plan(asked(RTX, Budget(money=0.002)))


def test_settings_that_cost_more_than_the_money_are_refused() -> None:
    costly = asked(A10, Budget(money=0.5), model="qwen2.5-1.5b-instruct")
    costly = replace(costly, task=replace(costly.task, options={"trial_tokens": 900_000_000}))
    with pytest.raises(InputError, match=r"more than the \$0.50 allowed"):
        make_plan(costly)


def test_money_means_nothing_where_no_price_is_known() -> None:
    mystery = replace(RTX, name="Mystery 9000")
    with pytest.raises(InputError, match="No price in USD is known for Mystery 9000"):
        make_plan(asked(mystery, Budget(money=5)))
    own = Budget(money=5, price_per_device_hour=1.0, price_source="option")
    assert make_plan(asked(mystery, own)).estimate.cost.money <= 5  # type: ignore[union-attr, operator]
    unknown = make_plan(asked(mystery, Budget())).estimate.cost
    assert unknown is not None
    assert (unknown.money, unknown.basis) == (None, "none")
    assert unknown.watt_hours > 0


def test_several_devices_cost_as_many_times() -> None:
    one, four = (
        make_plan(asked(A10, Budget(hours=48), model="qwen3-32b", copies=4)),
        make_plan(asked(A10, Budget(hours=48), model="qwen2.5-1.5b-instruct", copies=4)),
    )
    for made in (one, four):
        cost = made.estimate.cost
        assert cost is not None
        assert math.isclose(cost.device_hours, made.estimate.total_seconds / 3600 * cost.devices, rel_tol=0.01)
        assert made.search.lanes * made.training.devices == cost.devices
    assert one.training.devices > 1  # 32B does not fit one of them
    assert four.training.devices == 1


def test_money_turns_decisions_and_tells_from_where_on() -> None:
    made = asked(A10, Budget(money=0.15), rows=5000, model="qwen2.5-1.5b-instruct")
    condition = explained_plan(made).decision("trial_tokens").reverse_when
    assert condition is not None
    assert condition.fact == "task.budget.money"


@pytest.mark.parametrize(
    ("money", "price", "language", "expected"),
    [
        (None, None, "en", {"money": None, "currency": "USD"}),
        ("20", None, "zh", {"money": 20.0, "currency": "CNY"}),
        ("$3", None, "zh", {"money": 3.0, "currency": "USD"}),
        (
            20,
            "8.5CNY",
            "en",
            {"money": 20.0, "currency": "CNY", "price_per_device_hour": 8.5, "price_source": "option"},
        ),
        (
            "20元",
            "8.5",
            "en",
            {"money": 20.0, "currency": "CNY", "price_per_device_hour": 8.5, "price_source": "option"},
        ),
        ("2", "0", "en", {"money": 2.0, "currency": "USD", "price_per_device_hour": 0.0, "price_source": "option"}),
    ],
)
def test_amounts_and_their_currency(money: Any, price: Any, language: str, expected: dict[str, Any]) -> None:
    assert money_terms(money, price, language, {}) == expected


def test_the_environments_price_counts_where_no_option_is_given() -> None:
    assert money_terms("9", None, "en", {VARIABLE: "8.5 CNY"})["price_source"] == "environment"
    assert money_terms("9", "7CNY", "en", {VARIABLE: "8.5 CNY"})["price_per_device_hour"] == 7.0


@pytest.mark.parametrize(
    ("money", "price"), [("5USD", "8CNY"), ("cheap", None), ("-3", None), ("0", None), ("nan", None)]
)
def test_amounts_that_are_none_are_refused(money: str, price: str | None) -> None:
    with pytest.raises(InputError) as caught:
        money_terms(money, price, "en", {})
    assert caught.value.fix


def test_the_python_interface_takes_money(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    budget = autoswift.AutoSwift(money="20CNY", price="8.5CNY").task("x").budget
    assert budget.paid_seconds == pytest.approx(20 / 8.5 * 3600)
    assert autoswift.AutoSwift(money=20).task("客服").budget.currency == "CNY"


@pytest.mark.parametrize(
    ("value", "currency", "language", "shown"),
    [
        (1234.5, "USD", "en", "$1,234"),
        (3.456, "CNY", "zh", "3.46 元"),
        (0.0343, "USD", "en", "$0.034"),
        (0, "CNY", "en", "¥0.00"),
        (1e-7, "USD", "zh", "不到 0.0001 美元"),
        (None, "USD", "en", "no price"),
    ],
)
def test_amounts_read_well(value: float | None, currency: str, language: str, shown: str) -> None:
    assert amount(value, currency, language) == shown


def test_the_plan_shows_its_cost() -> None:
    from rich.console import Console

    use_language("en")
    made = asked(A10, Budget(money=2), model="qwen2.5-1.5b-instruct")
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(plan_view(make_plan(made), made.task))
    told = console.export_text()
    console.file.close()
    assert "costs about $" in told
    assert "list price" in told
    assert "energy about" in told


def test_money_ends_a_run_as_the_clock_does() -> None:
    cost = make_plan(asked(A10, Budget(money=0.3), model="qwen2.5-1.5b-instruct")).estimate.cost
    assert cost is not None
    clock = RunClock(Budget(money=0.3))
    assert clock.left > 3.9 * 3600
    clock.within(cost.bound(Budget(money=0.3)))
    assert clock.left == pytest.approx(0.3 / 0.75 * 3600, abs=5)


# What was spent


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Spent:
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("spent")
    patch.setenv("AUTOSWIFT_HOME", str(folder / "home"))
    found = spent_of(synthetic_run(folder / "run", language="en"))
    patch.undo()
    return found


def test_the_parts_of_what_was_spent_are_the_whole(done: Spent) -> None:
    assert math.isclose(done.seconds, sum(one.seconds for one in done.stages))
    assert done.money is not None
    assert math.isclose(done.money, done.seconds / 3600 * 0.7)
    assert math.isclose(done.money, sum(one.money or 0 for one in done.stages))
    assert math.isclose(done.watt_hours or 0, sum(one.watt_hours or 0 for one in done.stages))
    searched = [one for one in done.trials if one.trial]
    search = next(one for one in done.stages if one.name == "search")
    assert sum(one.seconds for one in searched) <= search.seconds + 1e-6


def test_failed_attempts_are_counted_with_what_they_cost(done: Spent) -> None:
    lost = [(one.trial, one.attempt, one.symptom) for one in done.trials if one.failed_seconds]
    assert lost == [(3, 1, "nan"), (4, 1, "host_out_of_memory")]
    assert done.failed["attempts"] == 2
    assert done.failed["money"] == pytest.approx((done.failed["seconds"] or 0) / 3600 * 0.7)
    assert "in failed attempts 1 min 25 s" in line(done, "en")
    assert "其中失败的尝试" in line(done, "zh")


events_of_a_run = st.lists(
    st.tuples(
        st.sampled_from(["started", "finished", "failed", "session", "note", "waited"]),
        st.sampled_from(["plan", "search", "train"]),
        st.floats(0, 1000),
    ),
    max_size=40,
)


@given(events_of_a_run)
def test_whatever_happened_stages_and_the_rest_make_up_the_wall_clock(steps: list[tuple[str, str, float]]) -> None:
    rows: list[dict[str, Any]] = [{"time": 0.0, "kind": "session"}]
    now = 0.0
    for state, stage, seconds in steps:
        now += seconds
        if state in ("session", "note"):
            rows.append({"time": now, "kind": state})
        elif state == "waited":
            rows.append({"time": now, "kind": "waited", "seconds": seconds / 2})
        else:
            rows.append({"time": now, "kind": "stage", "stage": stage, "state": state})
    found = spent(rows, [], None, machine(False))
    times = stage_times(rows)
    assert all(0 <= one.failed <= one.seconds + 1e-9 for one in times.values())
    assert found.seconds >= sum(one.seconds for one in times.values()) - 1e-6
    assert math.isclose(found.seconds, sum(one.seconds for one in found.stages), abs_tol=1e-6)
    assert found.money is None


def test_a_stage_cut_off_with_its_owner_is_lost_time() -> None:
    rows = [
        {"time": 0.0, "kind": "session"},
        {"time": 10.0, "kind": "stage", "stage": "merge", "state": "started"},
        {"time": 40.0, "kind": "note"},
        {"time": 900.0, "kind": "session"},
        {"time": 905.0, "kind": "stage", "stage": "merge", "state": "started"},
        {"time": 925.0, "kind": "stage", "stage": "merge", "state": "finished"},
    ]
    time = stage_times(rows)["merge"]
    assert (time.seconds, time.failed) == (50.0, 30.0)


def test_energy_that_the_cards_counted_takes_the_place_of_the_estimate() -> None:
    trials: list[dict[str, Any]] = [
        {"time": 0.0, "event": "started", "trial": 1, "attempt": 1},
        {"time": 90.0, "event": "progress", "trial": 1, "metrics": {"energy_joules": 30_000.0}},
        {"time": 100.0, "event": "ended", "trial": 1, "outcome": {"status": "failed", "device_seconds": 100.0}},
    ]
    events = [
        {"time": 0.0, "kind": "session"},
        {"time": 0.0, "kind": "stage", "stage": "search", "state": "started"},
        {"time": 100.0, "kind": "stage", "stage": "search", "state": "finished"},
    ]
    made = asked(A10, Budget(), model="qwen2.5-1.5b-instruct")
    cost = make_plan(made).estimate.cost
    found = spent(events, trials, cost, made.hardware)
    assert found.energy == "measured"
    assert found.watt_hours == pytest.approx(wall_watt_hours(30_000, 100))
    assert found.failed["attempts"] == 1
    trials[1]["metrics"] = {}
    assert spent(events, trials, cost, made.hardware).energy == "estimated"


def test_trials_beside_each_other_share_what_the_devices_cost() -> None:
    trials: list[dict[str, Any]] = []
    for number in (1, 2):
        trials.append({"time": 0.0, "event": "started", "trial": number, "attempt": 1})
        ended = {"status": "finished", "device_seconds": 100.0}
        trials.append({"time": 100.0, "event": "ended", "trial": number, "outcome": ended})
    events = [
        {"time": 0.0, "kind": "session"},
        {"time": 0.0, "kind": "stage", "stage": "search", "state": "started"},
        {"time": 100.0, "kind": "stage", "stage": "search", "state": "finished"},
    ]
    made = asked(A10, Budget(), model="qwen2.5-1.5b-instruct", copies=2)
    cost = make_plan(made).estimate.cost
    assert cost is not None
    found = spent(events, trials, replace(cost, devices=2), made.hardware, lanes=2)
    assert sum(one.money or 0 for one in found.trials) == pytest.approx(found.money)
    assert sum(one.watt_hours or 0 for one in found.trials) == pytest.approx(found.watt_hours)


class Counters:
    """NVML's two functions, for two cards."""

    def __init__(self) -> None:
        self.millijoules = [1000, 5000]
        self.code = 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:  # noqa: N802 - NVML's name
        handle._obj.value = int(uuid[-1:]) + 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, found: Any) -> int:  # noqa: N802
        found._obj.value = self.millijoules[int(handle.value or 0) - 1]
        return self.code


def test_the_meter_counts_all_cards_or_none() -> None:
    path = Path(autoswift.__file__).parent / "engines" / "children" / "energy.py"
    spec = importlib.util.spec_from_file_location("energy_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    library = Counters()
    meter = module.Meter(["GPU-0", "GPU-1"], library)
    library.millijoules = [3000, 9000]
    assert meter.joules() == 6.0
    library.code = 3
    assert meter.joules() is None
    assert module.Meter([], library=False).joules() is None


def test_a_machine_without_a_card_draws_by_its_cores() -> None:
    small = machine(False)
    assert machine_watts(replace(small, cpu_cores=4)) == 2 * machine_watts(small)
    assert priced(Budget(), replace(small, cpu_cores=16)).price_per_device_hour == pytest.approx(0.4)
    nothing: dict[str, Any] = {"price_per_device_hour": 0.0, "devices": 1, "device_hours": 0.0, "watt_hours": 0.0}
    estimate = CostEstimate(money=None, currency="USD", basis="none", source="", **nothing)
    assert spent([], [], estimate, small).money is None

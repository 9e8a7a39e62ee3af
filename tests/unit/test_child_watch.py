"""Early warnings from inside a training's process, without one: torch is a stand-in here."""

from __future__ import annotations

import importlib.util
import math
import resource
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import autoswift

PATH = Path(autoswift.__file__).parent / "engines" / "children" / "watch.py"
GIB = 2**30


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, on a device of 80 GiB of which a training had 60 at most and keeps 70; 2 more are the context."""
    torch: Any = ModuleType("torch")
    torch.OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})
    torch.cuda = SimpleNamespace(
        is_available=lambda: True,
        mem_get_info=lambda: (8 * GIB, 80 * GIB),
        max_memory_allocated=lambda: 60 * GIB,
        memory_reserved=lambda: 70 * GIB,
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    spec = importlib.util.spec_from_file_location("watch_under_test", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "host_memory", lambda: ("host_memory_high", 0.1, ""))
    return module


def symptoms(one: Any, **metrics: Any) -> list[str]:
    return [w["symptom"] for w in one.take({"loss": 1.0, "grad_norm": 1.0} | metrics)]


def test_torchs_cache_is_not_a_full_device(watch: Any) -> None:
    _, share, words = watch.device_memory()
    assert share == pytest.approx(62 / 80)
    assert "80.0 GiB" in words


def test_a_nearly_full_device_is_told_once(watch: Any) -> None:
    watch.torch.cuda.max_memory_allocated = lambda: 74 * GIB
    one = watch.Watch()
    (told,) = list(one.take({"loss": 1.0, "grad_norm": 1.0}))
    assert told["symptom"] == "memory_high"
    assert told["metrics"]["memory_share"] > watch.MEMORY
    assert symptoms(one) == []


def test_what_others_hold_counts(watch: Any) -> None:
    watch.torch.cuda.mem_get_info = lambda: (0, 80 * GIB)
    watch.torch.cuda.memory_reserved = lambda: 60 * GIB
    assert symptoms(watch.Watch()) == ["memory_high"]


def test_a_batch_without_an_answer_is_survived_and_lost_numbers_are_not(watch: Any) -> None:
    one = watch.Watch()
    assert symptoms(one, loss=math.nan, grad_norm=0.0) == ["nan"]
    assert not one.lost
    assert symptoms(one) == []
    for _ in range(watch.NANS):
        symptoms(one, loss=math.nan, grad_norm=0.0)
    assert one.lost
    other = watch.Watch()
    assert symptoms(other, loss=math.nan, grad_norm=math.nan) == ["nan", "nan_gradient"]
    assert other.lost


def test_gradients_are_watched_as_the_control_process_does(watch: Any) -> None:
    one = watch.Watch()
    for _ in range(20):
        assert symptoms(one) == []
    assert [s for n in range(10) for s in symptoms(one, grad_norm=2.0**n)] == ["gradients_growing"]
    for _ in range(3):
        assert not one.lost
        symptoms(one, grad_norm=math.inf)
    assert one.lost


def test_a_capped_process_is_measured_by_its_cap(monkeypatch: pytest.MonkeyPatch, watch: Any) -> None:
    spec = importlib.util.spec_from_file_location("watch_again", PATH)
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=GIB, vms=19 * GIB))
    machine = SimpleNamespace(total=1000 * GIB, available=10 * GIB)
    monkeypatch.setattr(fresh.psutil, "Process", lambda: process)
    monkeypatch.setattr(fresh.psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(fresh, "_cgroup", lambda: iter(()))
    assert fresh.host_memory()[1] == 0.0, "others fill the machine"
    monkeypatch.setattr(fresh.resource, "getrlimit", lambda _: (20 * GIB, 20 * GIB))
    assert fresh.host_memory()[1] == pytest.approx(0.95)
    assert resource.RLIM_INFINITY == fresh.resource.RLIM_INFINITY


def test_missing_memory_is_told_from_other_errors(watch: Any) -> None:
    assert watch.out_of_memory(watch.torch.OutOfMemoryError("CUDA out of memory"))
    assert watch.out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not watch.out_of_memory(RuntimeError("shapes do not fit"))

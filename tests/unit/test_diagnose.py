"""Ends of real logs are named as a person who read the thread would name them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from autoswift.domain.protocols import Symptom
from autoswift.recover.diagnose import diagnose, ladder, phase_of, row, rows
from autoswift.tables import has_text

TAILS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "log_tails.json").read_text(encoding="utf-8"))
"""From public issue threads (`source`), shortened by whole lines and paths; where a thread cuts its log off, its title
is the last line."""

NOISE = """[INFO:swift] The training arguments: template_type='qwen2_5', model_type='qwen2_5', eos_token='<|im_end|>'
UserWarning: os.fork() was called. os.fork() is incompatible with multithreaded code
WARNING: retrying after ConnectionError: HTTPSConnectionPool(host='hub', port=443): Read timed out.
Train:   3%|##        | 12/400 [00:10<02:00,  3.20it/s]
"""
"""What stands before the end of most logs: arguments that hold the tables' words, and faults that were survived."""


def test_there_are_tails_enough_of_every_kind() -> None:
    assert len(TAILS) >= 40
    assert len({t["source"] for t in TAILS}) >= 40
    kinds = Counter(t["symptom"] for t in TAILS)
    told_by_log = {r["name"] for r in rows() if r["patterns"]}
    assert told_by_log <= set(kinds)
    phases = {t["phase"] for t in TAILS if t["symptom"] == "device_out_of_memory"}
    assert phases == {"load", "first_step", "long_batch", "evaluation", "save"}


@pytest.mark.parametrize("tail", TAILS, ids=[t["source"] for t in TAILS])
def test_a_real_tail_is_named(tail: dict[str, Any]) -> None:
    found = diagnose(tail["code"], tail["log"], oom_kills_before=10**9)
    assert (found.name, found.phase) == (tail["symptom"], tail["phase"])
    assert found.evidence in tail["log"]
    assert found.transient == row(found.name)["transient"]


@pytest.mark.parametrize("tail", TAILS, ids=[t["source"] for t in TAILS])
def test_what_stands_before_the_end_changes_no_name(tail: dict[str, Any]) -> None:
    found = diagnose(tail["code"], NOISE + tail["log"], oom_kills_before=10**9)
    assert found.name == tail["symptom"]


def test_a_log_that_tells_of_no_fault_is_unknown_and_kept() -> None:
    found = diagnose(139, "[INFO:swift] The training arguments: template_type='qwen2_5', eos_token='<|im_end|>'\nbye\n")
    assert found.name == "unknown"
    assert found.evidence == "exit code 139 (SIGSEGV): bye"


def test_what_was_survived_is_a_cause_only_when_nothing_else_is() -> None:
    assert diagnose(1, NOISE).name == "hub_failure"
    assert diagnose(1, NOISE + "OSError: [Errno 28] No space left on device").name == "disk_full"


def test_a_rank_that_ran_out_of_memory_goes_before_those_that_waited_for_it() -> None:
    both = [t["log"] for t in TAILS if t["source"] in ("hiyouga/LlamaFactory#7396", "pytorch/pytorch#16417")]
    assert diagnose(1, "\n".join(both)).name == "device_out_of_memory"
    assert diagnose(1, "\n".join(reversed(both))).name == "device_out_of_memory"


def test_the_callbacks_knowledge_beats_the_log() -> None:
    log = "torch.OutOfMemoryError: CUDA out of memory."
    assert phase_of(log, started=False, steps=0) == "load"
    assert phase_of(log, started=True, steps=0) == "first_step"
    assert phase_of(log, started=True, steps=7) == "long_batch"


def test_each_phase_has_a_ladder_that_can_help_there() -> None:
    def steps(phase: str) -> list[str]:
        return ladder(Symptom(name="device_out_of_memory", evidence="", phase=phase))

    assert steps("first_step") == steps("long_batch") == row("device_out_of_memory")["remedies"]
    assert "halve_micro_batch" in steps("first_step")
    assert "halve_micro_batch" not in steps("load")  # no batch is there yet


def test_each_symptom_has_a_plain_word_in_both_languages() -> None:
    for one in rows():
        assert has_text(f"recover.symptom.{one['name']}", "en"), one["name"]
        assert has_text(f"recover.symptom.{one['name']}", "zh"), one["name"]


def test_only_what_lies_outside_the_configuration_is_repeated() -> None:
    for one in rows():
        assert ("repeat" in one["remedies"]) <= one["transient"], one["name"]

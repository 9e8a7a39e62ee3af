from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from autoswift.domain.profile import GIB
from autoswift.errors import InputError
from autoswift.hardware import cpu_rate, host
from autoswift.hardware.cards import parse_ascend, parse_nvidia
from autoswift.hardware.notes import note, note_text
from autoswift.hardware.probe import disk_free, from_json, probe, profile_json

TWO_CARDS = """0, NVIDIA GeForce RTX 3060, 12288, 512, 8.6, GPU-aaaa
1, NVIDIA A100-SXM4-80GB, 81920, 40960, 8.0, GPU-bbbb
"""
ASCEND = """
+------------------------------------------------------------------------------------------------+
| npu-smi 23.0.rc2                 Version: 23.0.rc2                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 91.8        41                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          4096 / 65536         |
+===========================+===============+====================================================+
"""


@pytest.fixture
def quick(monkeypatch):
    """No measuring: the rate is given."""
    monkeypatch.setattr(cpu_rate, "measure", lambda threads: 100.0 / threads)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder of fake driver tools, alone on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(name: str, body: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    return make


def test_without_drivers_there_is_the_cpu(quick, tools, tmp_path):
    found = probe(tmp_path / "not" / "yet" / "there")
    assert [one.kind for one in found.devices] == ["cpu"]
    assert found.cpu_cores == len(os.sched_getaffinity(0)) or found.cpu_cores >= 1
    assert 0 < found.memory_free_bytes <= found.memory_bytes
    assert found.disk_free_bytes > 0
    assert found.device.tflops == pytest.approx(0.05)  # half of the 100 GFLOP/s that one thread reached
    assert "100 GFLOP/s" in found.device.tflops_source


def test_cards_come_first_the_fastest_before_the_rest(quick, tools, tmp_path):
    tools("nvidia-smi", f"cat <<'EOF'\n{TWO_CARDS}EOF")
    found = probe(tmp_path)
    assert [one.name for one in found.devices][:2] == ["NVIDIA A100-SXM4-80GB", "NVIDIA GeForce RTX 3060"]
    assert found.device.bf16
    assert found.device.free_bytes == 40 * GIB
    assert found.device.tflops == pytest.approx(312 * 0.35, abs=0.1)
    sentences = [note_text(one, "en") for one in found.notes]
    assert any("differ" in one for one in sentences)
    assert any("already in use: 50%" in one for one in sentences)


@pytest.mark.parametrize("body", ["exit 9", "echo Failed to initialize NVML", "printf '0, [N/A], x'", "kill -9 $$"])
def test_a_broken_driver_means_no_card(quick, tools, tmp_path, body):
    tools("nvidia-smi", body)
    assert probe(tmp_path).device.kind == "cpu"


def test_a_hanging_driver_is_given_up(tools):
    tools("nvidia-smi", "exec sleep 60")
    assert host.tool_output(["nvidia-smi"], timeout=0.3) == ""


@pytest.mark.parametrize(
    ("visible", "indices"), [(None, [0, 1]), ("1", [1]), ("1,0", [1, 0]), ("GPU-bb", [1]), ("1,7,0", [1]), ("7", [])]
)
def test_only_the_visible_cards_count(visible, indices):
    assert [one.index for one in parse_nvidia(TWO_CARDS, visible)] == indices


def test_an_old_card_has_no_bf16():
    (one,) = parse_nvidia("0, Tesla T4, 15360, 3, 7.5, GPU-c")
    assert not one.bf16
    assert one.tflops > 0


def test_ascend_is_read_from_its_table():
    (one,) = parse_ascend(ASCEND)
    assert (one.kind, one.name, one.memory_bytes, one.free_bytes) == ("npu", "Ascend 910B3", 64 * GIB, 60 * GIB)
    assert one.bf16
    assert parse_ascend("") == parse_ascend("dcmi module initialize failed") == []


def test_a_container_limit_of_the_second_version(tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(str(4 * GIB))
    (tmp_path / "memory.current").write_text(str(3 * GIB))
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {GIB}\n")
    assert host.cpu_quota(tmp_path) == 1.5
    assert host.memory_limit(tmp_path) == (4 * GIB, 2 * GIB)


def test_a_container_limit_of_the_first_version(tmp_path):
    for name in ("cpu", "memory"):
        (tmp_path / name).mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("400000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(2 * GIB))
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text(str(GIB))
    assert host.cpu_quota(tmp_path) == 4.0
    assert host.memory_limit(tmp_path) == (2 * GIB, GIB)


def test_no_container_limit(tmp_path):
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert host.cpu_quota(tmp_path) is None
    assert host.memory_limit(tmp_path) is None


def test_a_quiet_measurement_is_kept_and_a_disturbed_one_bettered(monkeypatch, autoswift_home):
    rates = iter([50.0, 30.0, 40.0, 90.0])
    monkeypatch.setattr(cpu_rate, "measure", lambda threads: next(rates))
    monkeypatch.setattr(cpu_rate, "AGAIN_SECONDS", -1.0)
    monkeypatch.setattr(cpu_rate, "_load", lambda: 2.0)
    assert cpu_rate.cpu_rates("X", 2) == {1: 50.0, 2: 30.0}
    monkeypatch.setattr(cpu_rate, "_load", lambda: 0.0)
    assert cpu_rate.cpu_rates("X", 2) == {1: 50.0, 2: 90.0}
    assert cpu_rate.cpu_rates("X", 2) == {1: 50.0, 2: 90.0}  # not measured again: nothing is left to give
    (autoswift_home / "cache" / "cpu.json").write_text("{ torn")
    monkeypatch.setattr(cpu_rate, "measure", lambda threads: 7.0)
    assert cpu_rate.cpu_rates("X", 1) == {1: 7.0}


def test_the_measurement_itself(monkeypatch):
    monkeypatch.setattr(cpu_rate, "SECONDS", 0.02)
    monkeypatch.setattr(cpu_rate, "SIZE", 128)
    assert cpu_rate.measure(1) > 0.1  # any CPU of this century


def test_a_profile_survives_its_file(quick, tools, tmp_path):
    tools("nvidia-smi", f"cat <<'EOF'\n{TWO_CARDS}EOF")
    found = probe(tmp_path)
    path = tmp_path / "probe.json"
    path.write_text(profile_json(found), encoding="utf-8")
    assert from_json(path) == found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no file"),
        ("{", "not valid JSON"),
        ("[]", "does not describe"),
        ('{"devices": [{"kind": "tpu", "name": "x"}]}', "does not describe"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, content, words):
    path = tmp_path / "probe.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        from_json(path)
    assert caught.value.fix


def test_a_machine_without_devices_is_refused(quick, tools, tmp_path):
    value = json.loads(profile_json(probe(tmp_path))) | {"devices": []}
    path = tmp_path / "probe.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match="without a device"):
        from_json(path)


def test_disk_of_a_place_that_is_not_there_yet(tmp_path):
    assert disk_free(tmp_path / "a" / "b") == pytest.approx(disk_free(tmp_path), rel=0.05)
    assert disk_free(Path("/")) > 0


def test_a_note_is_a_sentence_in_both_languages():
    one = note("in_use", name="A10", index=0, share="35%")
    assert "A10" in note_text(one, "en")
    assert "显存" in note_text(one, "zh")
    assert note_text("written by hand", "zh") == "written by hand"

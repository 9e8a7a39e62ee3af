from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.domain.profile import GIB
from autoswift.errors import InputError
from autoswift.hardware import cpu_rate, host
from autoswift.hardware import source as asking
from autoswift.hardware.amd import parse_amd
from autoswift.hardware.ascend import chosen
from autoswift.hardware.cards import accelerators, parse_ascend, parse_nvidia
from autoswift.hardware.notes import note, note_text
from autoswift.hardware.nvidia import LIBRARY, TOPOLOGY, XML, from_library, from_xml, nvidia, parse_topology
from autoswift.hardware.packages import installed
from autoswift.hardware.probe import disk_free, from_json, probe, profile_json
from autoswift.hardware.source import Source, label, recorded, recording

PROBES = Path(__file__).resolve().parents[1] / "probes"
MACHINES = sorted(path.stem for path in PROBES.glob("*.json"))

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
    assert found.device.tflops == pytest.approx(312 * 0.47, rel=0.02)
    sentences = [note_text(one, "en") for one in found.notes]
    assert any("differ" in one for one in sentences)
    assert any("already in use: 50%" in one for one in sentences)


BROKEN = [
    "exit 9",
    "echo Failed to initialize NVML",
    "printf '0, [N/A], x'",
    "kill -9 $$",
    "echo '<nvidia_smi_log><gpu><product_name>cut off'",
    "echo '<nvidia_smi_log><gpu><product_name>GPU is lost</product_name></gpu></nvidia_smi_log>'",
    "printf '\\377\\376 bytes'",
]


@pytest.mark.parametrize("body", BROKEN)
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


def test_a_hanging_driver_does_not_hang_the_probe(quick, tools, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "SECONDS", 0.2)
    monkeypatch.setattr(asking.output, "__defaults__", (0.2,))
    tools("nvidia-smi", "exec sleep 60")
    tools("npu-smi", "exec sleep 60")
    begin = time.monotonic()
    assert probe(tmp_path).device.kind == "cpu"
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("name", MACHINES)
def test_a_recorded_machine_is_read_from_what_its_tools_printed(name):
    raw = PROBES / "raw" / name
    assert from_json(PROBES / f"{name}.json") == probe(raw, recorded(raw))


@pytest.mark.parametrize("name", MACHINES)
def test_a_recorded_machine_is_plausible(name):
    found = from_json(PROBES / f"{name}.json")
    first = found.device
    assert found.devices[-1].kind == "cpu"
    assert 0 < first.free_bytes <= first.memory_bytes
    assert first.tflops > 0
    assert found.memory_free_bytes <= found.memory_bytes
    if first.kind != "cpu":
        assert first.bandwidth > 0
        assert first.power_limit_watts > 0
    for language in ("zh", "en"):
        assert all(note_text(one, language) != one for one in found.notes)  # each has a sentence


def test_what_the_recorded_machines_are():
    def of(name):
        return from_json(PROBES / f"{name}.json")

    assert [of(n).device.bf16 for n in ("t4", "v100", "a10", "rtx3060-12g", "h100")] == [False, False, True, True, True]
    assert [of(n).device.capability for n in ("t4", "v100", "a10", "rtx4090", "h100")] == [
        "7.5",
        "7.0",
        "8.6",
        "8.9",
        "9.0",
    ]
    assert of("rtx3060-12g").device.memory_bytes == 12 * GIB
    assert of("a100-80g").cpu_cores == 16  # the container's, of 64
    assert of("a100-80g").memory_bytes == 128 * GIB
    assert of("m2-max").device.memory_bytes == 48 * GIB  # three quarters of 64
    assert of("jetson-orin").device.unified
    assert len([d for d in of("h100x8").devices if d.kind == "cuda"]) == 8
    assert set(of("h100x8").links.values()) == {"nvlink"}
    assert len(of("h100x8").links) == 28
    assert of("cpu-2core").device.kind == "cpu"
    assert of("ascend-910b").device.name == "Ascend 910B3"
    assert "amx_bf16" in of("h100").cpu_flags
    kinds = {n: {one.split(";")[0] for one in of(n).notes} for n in MACHINES}
    assert "old_card" in kinds["v100"]
    assert "old_driver" in kinds["rtx3060-12g"]
    assert kinds["rtx4090"] == kinds["h100"] == set()


def test_the_three_answers_of_a_card_say_the_same():
    source = recorded(PROBES / "raw" / "h100")
    (by_library,) = from_library(source.run(LIBRARY)).devices
    (by_xml,) = from_xml(source.run(XML)).devices
    (by_csv,) = parse_nvidia("0, NVIDIA H100 80GB HBM3, 81559, 480, 9.0, GPU-c4a90b1e")
    # XML counts what the driver reserves beside what is free.
    assert abs(by_library.free_bytes - by_xml.free_bytes) < 2**20
    for name in ("name", "memory_bytes", "capability", "bf16", "tflops"):
        assert getattr(by_library, name) == getattr(by_xml, name) == getattr(by_csv, name)
    assert by_library.driver == by_xml.driver == "580.159.04"
    assert by_library.power_limit_watts == by_xml.power_limit_watts == 700
    assert by_library.ecc
    assert by_xml.persistence


MIG = {"driver": "570.1", "cuda": "12.8", "peers": {}, "cards": [
    {"index": 0, "name": "NVIDIA A100-SXM4-80GB", "uuid": "GPU-0", "memory": {"total": 80 * GIB, "free": 79 * GIB},
     "capability": [8, 0], "processes": [{"pid": 7, "bytes": 3 * GIB}], "mig": True, "slices": [
         {"name": "NVIDIA A100 MIG 3g.40gb", "uuid": "MIG-aa", "memory": {"total": 40 * GIB, "free": 39 * GIB}},
         {"name": "NVIDIA A100 MIG 1g.10gb", "uuid": "MIG-bb", "memory": {"total": 10 * GIB, "free": 9 * GIB}}]},
    {"index": 1, "name": "NVIDIA A100-SXM4-80GB", "uuid": "GPU-1", "memory": {"total": 80 * GIB, "free": 20 * GIB},
     "capability": [8, 0], "processes": [{"pid": 41, "bytes": 59 * GIB}], "mig": False, "slices": []}]}  # fmt: skip


def asked(text, **environ):
    """A source whose library answers so."""
    return Source(run=lambda argv: text if tuple(argv) == LIBRARY else "", read=lambda path: "", environ=environ)


def test_a_split_card_stands_for_its_slices():
    whole = nvidia(asked(json.dumps(MIG))).devices
    assert [(one.mig, one.memory_bytes // GIB) for one in whole] == [("3g.40gb", 40), ("1g.10gb", 10), ("", 80)]
    assert whole[0].tflops == pytest.approx(3 / 7 * whole[2].tflops, rel=0.01)
    (one,) = nvidia(asked(json.dumps(MIG), CUDA_VISIBLE_DEVICES="MIG-bb")).devices
    assert one.uuid == "MIG-bb"
    assert [d.uuid for d in nvidia(asked(json.dumps(MIG), CUDA_VISIBLE_DEVICES="1,0")).devices] == ["GPU-1", "MIG-aa"]
    assert nvidia(asked(json.dumps(MIG), CUDA_VISIBLE_DEVICES="")).devices == ()


def test_who_uses_a_card_is_said():
    found, notes, _ = accelerators(0, 0, asked(json.dumps(MIG), CUDA_VISIBLE_DEVICES="1"))
    assert found[0].processes == ({"pid": 41, "name": "", "bytes": 59 * GIB},)
    assert any(one.startswith("used_by;pid=41") for one in notes)
    assert "59.0" in note_text(next(n for n in notes if n.startswith("used_by")), "zh")


WRONG = [None, -1, 2**70, "", "x", [], ["x"], {}, {"total": "x"}, True, 1.5]


@given(st.sampled_from(sorted(MIG["cards"][0])), st.sampled_from(WRONG), st.booleans())
def test_the_library_may_answer_anything(name, value, everywhere):
    broken = json.loads(json.dumps(MIG))
    for card in broken["cards"] if everywhere else broken["cards"][:1]:
        card[name] = value
    found = from_library(json.dumps(broken))
    assert found is None or all(
        0 <= one.free_bytes <= one.memory_bytes or one.memory_bytes < 0 for one in found.devices
    )
    assert from_library(json.dumps({"cards": value})) is None
    assert from_library(json.dumps(value)) is None


@given(st.text())
def test_no_output_breaks_a_parser(text):
    assert parse_nvidia(text) == []
    assert from_xml(text) is None
    assert parse_ascend(text) == []
    assert parse_amd(text) == []
    assert parse_topology(text) == {}


def test_links_are_read_from_the_matrix():
    text = (PROBES / "raw" / "h100x8" / label(TOPOLOGY)).read_text()
    assert set(parse_topology(text).values()) == {"nvlink"}
    small = (
        "\tGPU0\tGPU1\tGPU2\tCPU Affinity\nGPU0\t X \tPIX\tSYS\t0-7\nGPU1\tPIX\t X \tNV4\t0-7\nGPU2\tSYS\tNV4\t X \t0-7"
    )
    assert parse_topology(small) == {"0-1": "p2p", "0-2": "host", "1-2": "nvlink"}


NPUS = """| 0     910B3               | OK            | 91.8        41                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          4096 / 65536         |
| 1     910B3               | OK            | 90.1        40                0    / 0             |
| 0                         | 0000:01:00.0  | 87          0    / 0          60000/ 65536         |
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
| 1       0                 | 8812          | python3.11               | 56604                   |
"""
TWO_DIES = """| 0     Ascend910           | OK            | 178.5       36                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3416 / 65536         |
| 0     Ascend910           | OK            | -           36                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 0           0    / 0          3195 / 65536         |
"""


def test_ascend_chips_differ_in_what_they_can_do():
    one, two = parse_ascend(NPUS)
    assert two.processes == ({"pid": 8812, "name": "python3.11", "bytes": 56604 * 2**20},)
    assert not one.processes
    assert [d.name for d in chosen([one, two], "1,0")] == ["Ascend 910B3"] * 2
    assert [d.index for d in chosen([one, two], "1")] == [1]
    assert [d.index for d in chosen([one, two], "0-1")] == [0, 1]
    assert chosen([one, two], "") == []
    first, second = parse_ascend(TWO_DIES)
    assert (first.name, first.index, second.index, first.bf16) == ("Ascend 910C", 0, 1, True)
    (old,) = parse_ascend(NPUS.replace("910B3", "910A ").replace("65536", "32768").split("| 1 ")[0])
    assert not old.bf16
    small = NPUS.replace("910B3", "310P3").split("| 1 ")[0]
    source = Source(run=lambda argv: small if argv[0] == "npu-smi" else "", read=lambda path: "")
    found, notes, _ = accelerators(0, 0, source)
    assert found == ()
    assert notes == ("cannot_train;name=Ascend 310P3",)


AMD = json.dumps({"card0": {"VRAM Total Memory (B)": "206141652992", "VRAM Total Used Memory (B)": "297168896",
                            "Card Series": "AMD Instinct MI300X OAM", "Card Model": "0x74a1"},
                  "system": {"Driver version": "6.10.5"}})  # fmt: skip


def test_amd_cards_train_only_with_a_rocm_torch():
    source = Source(run=lambda argv: AMD if argv[0] == "rocm-smi" else "", read=lambda path: "6.4.1-83")
    found, notes, _ = accelerators(0, 0, source)
    assert (found, notes) == ((), ("needs_rocm;name=AMD Instinct MI300X OAM",))
    (one,), notes, _ = accelerators(0, 0, source, rocm=True)
    assert (one.kind, one.vendor, one.memory_bytes, one.bf16) == ("cuda", "amd", 206141652992, True)
    assert one.tflops > 0
    assert notes == ()


@pytest.mark.parametrize(
    ("memory", "wired", "version", "usable", "bf16"),
    [
        (16, "0", "15.1", 10.67, True),
        (64, "0", "15.1", 48, True),
        (64, "57344", "15.1", 56, True),
        (64, "", "13.6", 48, False),
    ],
)
def test_a_mac_gives_its_gpu_a_part_of_its_memory(memory, wired, version, usable, bf16):
    says = {"machdep.cpu.brand_string": "Apple M2 Max", "iogpu.wired_limit_mb": wired, "-productVersion": version}
    source = Source(run=lambda argv: says.get(argv[-1], ""), read=lambda p: "", system="darwin", machine="arm64")
    (one,), _, _ = accelerators(memory * GIB, memory * GIB, source)
    assert one.memory_bytes / GIB == pytest.approx(usable, abs=0.01)
    assert one.bf16 is bf16


def test_a_recording_gives_back_what_was_asked(tmp_path):
    live = Source(
        run=lambda argv: " ".join(argv), read=lambda path: path, environ={"CUDA_VISIBLE_DEVICES": "1", "KEY": "x"}
    )
    kept = recording(live, tmp_path)
    assert kept.run(("nvidia-smi", "-q", "-x")) == "nvidia-smi -q -x"
    assert kept.read("/proc/cpuinfo") == "/proc/cpuinfo"
    again = recorded(tmp_path)
    assert again.run(("nvidia-smi", "-q", "-x")) == "nvidia-smi -q -x"
    assert again.read("/proc/cpuinfo") == "/proc/cpuinfo"
    assert again.run(("nvidia-smi", "other")) == ""
    assert again.environ == {"CUDA_VISIBLE_DEVICES": "1"}  # nothing else of the environment leaves the machine


def test_what_is_installed_is_read_from_folders(tmp_path):
    site = tmp_path / "lib" / "python3.12" / "site-packages"
    for name in ("flash_attn-2.8.3.dist-info", "torch-2.9.0+rocm6.4.dist-info", "Liger.Kernel-0.6.egg-info"):
        (site / name).mkdir(parents=True)
    found = installed(tmp_path / "bin" / "python")
    assert found == {"flash-attn": "2.8.3", "torch": "2.9.0+rocm6.4", "liger-kernel": "0.6"}
    assert installed(tmp_path / "nowhere" / "bin" / "python") == {}

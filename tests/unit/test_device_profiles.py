"""What a device needs of a training, on the recorded machines; what it costs; what to do when nothing fits."""

from __future__ import annotations

import ast
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from autoswift.domain.profile import GIB, Device, HardwareProfile
from autoswift.errors import InputError
from autoswift.hardware.devices import lookup
from autoswift.hardware.memory import MemorySettings
from autoswift.hardware.money import VARIABLE, cheapest, price_of, stage_cost, user_price, watts
from autoswift.hardware.probe import from_json
from autoswift.hardware.profile import DeviceProfile, device_profile, load_profile, save_profile
from autoswift.hardware.shape import shape_of
from autoswift.hardware.ways import SmallerModel, nf4_text, ways_out
from autoswift.run.places import train_python_or_none
from autoswift.tables import table

PROBES = Path(__file__).resolve().parents[1] / "probes"
MACHINES = sorted(path.stem for path in PROBES.glob("*.json"))
EVERYTHING = ("flash-attn", "bitsandbytes", "liger-kernel", "hqq", "optimum-quanto", "eetq")
SEVENTY_TWO = shape_of(
    {
        "parameters": 72_706_203_648, "layers": 80, "hidden": 8192, "heads": 64, "kv_heads": 8,
        "intermediate": 29568, "vocabulary": 152064, "head_dim": 128, "tied": False,
    }
)  # fmt: skip


def machine(name: str) -> HardwareProfile:
    return from_json(PROBES / f"{name}.json")


def profile(name: str, packages=EVERYTHING, **more) -> DeviceProfile:
    return device_profile(machine(name), packages=packages, **more)


def test_there_are_the_machines_that_were_asked_for():
    assert len(MACHINES) == 13


@pytest.mark.parametrize(
    ("name", "attention", "precision", "quantization"),
    [
        ("rtx3060-12g", "flash_attn", "bfloat16", {"bnb-nf4", "bnb-int8", "hqq", "quanto", "eetq"}),
        ("rtx4090", "flash_attn", "bfloat16", {"bnb-nf4", "bnb-int8", "hqq", "quanto", "eetq", "fp8"}),
        ("t4", "sdpa", "float16", {"bnb-nf4", "bnb-int8", "hqq", "quanto", "eetq"}),
        ("v100", "sdpa", "float16", {"bnb-nf4", "hqq", "quanto", "eetq"}),
        ("a10", "flash_attn", "bfloat16", {"bnb-nf4", "bnb-int8", "hqq", "quanto", "eetq"}),
        ("a100-40g", "flash_attn", "bfloat16", {"bnb-nf4", "bnb-int8", "hqq", "quanto", "eetq"}),
        ("h100", "flash_attn", "bfloat16", {"bnb-nf4", "bnb-int8", "hqq", "quanto", "eetq", "fp8"}),
        ("ascend-910b", "sdpa", "bfloat16", set()),
        ("m2-max", "sdpa", "bfloat16", {"quanto"}),
        ("cpu-2core", "sdpa", "float32", set()),
    ],
)
def test_each_machine_gets_what_runs_there(name, attention, precision, quantization):
    found = profile(name)
    assert (found.attention, found.precision, set(found.quantization)) == (attention, precision, quantization)


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_is_used_that_is_not_installed(name):
    found = profile(name, packages=())
    assert found.attention != "flash_attn"
    assert not found.liger
    assert not found.packing
    assert set(found.quantization) <= {"fp8"}


@pytest.mark.parametrize("name", MACHINES)
def test_every_setting_has_a_reason_in_both_languages(name):
    found = profile(name)
    said = {one.setting for one in found.reasons}
    assert {"attention", "precision", "optimizer", "liger", *found.variables, *found.flags} <= said
    for one in found.reasons:
        assert one.sentence("en").endswith((".", ")"))
        assert one.sentence("zh").endswith(("。", "）"))
        assert "{" not in one.sentence("zh")
    assert found.reason("attention").value == found.attention
    assert found.reason("nothing") is None


def test_the_environment_of_one_card_hides_the_others():
    one, all_ = profile("h100x8"), profile("h100x8", use=8)
    assert one.environment()["CUDA_VISIBLE_DEVICES"] == "0"
    assert one.environment()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert one.environment()["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert one.launcher("/py") == ["/py"]
    assert all_.environment()["CUDA_VISIBLE_DEVICES"] == "0,1,2,3,4,5,6,7"
    assert "--nproc_per_node=8" in all_.launcher("/py", port=29511)
    assert "--master_port=29511" in all_.launcher("/py", port=29511)
    assert all_.link == "nvlink"
    assert int(all_.environment()["OMP_NUM_THREADS"]) * 8 <= machine("h100x8").cpu_cores
    assert all_.swift_flags()["ddp_find_unused_parameters"] == "false"
    assert "NCCL_P2P_DISABLE" not in all_.environment()


def two(name: str, links: dict[str, str]) -> DeviceProfile:
    card = lookup(name).device()
    cpu = Device(kind="cpu", name="x")
    found = replace(machine("h100x8"), devices=(card, replace(card, index=1), cpu), links=links)
    return device_profile(found, use=2, packages=())


@pytest.mark.parametrize(
    ("name", "links", "disabled"),
    [
        ("rtx-4090", {"0-1": "host"}, True),
        ("rtx-3090", {"0-1": "host"}, True),
        ("rtx-3090", {}, True),
        ("rtx-3090", {"0-1": "nvlink"}, False),
        ("a100-80g", {"0-1": "host"}, False),
    ],
)
def test_peer_access_is_off_where_there_is_none(name, links, disabled):
    assert ("NCCL_P2P_DISABLE" in two(name, links).environment()) is disabled


def test_other_devices_have_their_own_variables():
    assert profile("ascend-910b").environment()["ASCEND_RT_VISIBLE_DEVICES"] == "0"
    assert profile("m2-max").environment()["PYTORCH_MPS_HIGH_WATERMARK_RATIO"] == "1.0"
    assert "CUDA_VISIBLE_DEVICES" not in profile("cpu-2core").environment()
    assert "PYTORCH_CUDA_ALLOC_CONF" not in profile("jetson-orin").environment()
    sliced = replace(machine("a100-80g").device, mig="1g.10gb", uuid="MIG-bb")
    found = device_profile(replace(machine("a100-80g"), devices=(sliced,)), packages=())
    assert found.environment()["CUDA_VISIBLE_DEVICES"] == "MIG-bb"


def test_a_card_of_another_kind_is_not_mixed_in():
    cards = (lookup("a100-80g").device(), replace(lookup("rtx-3060").device(), index=1), Device(kind="cpu", name="x"))
    found = device_profile(replace(machine("h100"), devices=cards), use=2, packages=())
    assert found.devices == ("0",)


def test_a_device_written_by_hand_is_judged_by_its_bf16():
    card = Device(kind="cuda", name="mystery", bf16=True, memory_bytes=GIB)
    found = device_profile(replace(machine("h100"), devices=(card,)), packages=EVERYTHING)
    assert found.attention == "flash_attn"
    old = device_profile(replace(machine("h100"), devices=(replace(card, bf16=False),)), packages=EVERYTHING)
    assert (old.attention, old.precision) == ("sdpa", "float16")


@pytest.mark.parametrize("name", MACHINES)
def test_the_file_gives_the_profile_back(name, tmp_path):
    found = profile(name)
    path = save_profile(found, tmp_path)
    assert path.name == "device.json"
    assert load_profile(path) == found
    assert path.read_text(encoding="utf-8") == save_profile(found, tmp_path).read_text(encoding="utf-8")


def test_a_file_that_is_no_profile_is_refused(tmp_path):
    path = tmp_path / "device.json"
    path.write_text('{"kind": 3}')
    with pytest.raises(InputError, match="no device profile"):
        load_profile(path)


def flags_of_every_rule() -> set[str]:
    return {name for rule in table("device_profiles")["flags"] for name in rule["set"]}


def fields_in(folder: Path, *files: str) -> set[str]:
    """Names annotated in the classes of some files, read without importing them."""
    found = set()
    for path in [p for name in files for p in folder.glob(name)]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
    return found


def test_swift_has_every_flag():
    python = train_python_or_none()
    folders = list(python.absolute().parent.parent.glob("lib/python3*/site-packages/swift")) if python else []
    if not folders:
        pytest.skip("no training environment")
    names = fields_in(folders[0], "arguments/*.py", "arguments/*/*.py", "trainers/arguments.py")
    names |= fields_in(folders[0].parent / "transformers", "training_args.py")
    assert flags_of_every_rule() <= names
    quant = (folders[0] / "arguments" / "base_args" / "quant_args.py").read_text(encoding="utf-8")
    for method in {rule["value"].split("-")[0] for rule in table("device_profiles")["quantization"]}:
        assert f"'{method}'" in quant


@pytest.mark.slow
def test_swift_parses_every_flag():
    python = train_python_or_none()
    if python is None:
        pytest.skip("no training environment")
    flags = {**profile("h100x8", use=8).swift_flags(), **profile("cpu-2core").swift_flags(), "tf32": "true"}
    argv = [part for name, value in flags.items() for part in (f"--{name}", value)]
    code = (
        "import argparse, json, sys\n"
        "from transformers import HfArgumentParser\n"
        "from swift.arguments import SftArguments\n"
        "parser = HfArgumentParser([SftArguments])\n"
        "found, rest = argparse.ArgumentParser.parse_known_args(parser, sys.argv[1:])\n"
        "print(json.dumps([rest, found.attn_impl, found.tf32, found.ddp_find_unused_parameters]))\n"
    )
    done = subprocess.run([str(python), "-c", code, *argv], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [[], "sdpa", True, False]


# Money and energy


def test_an_hour_of_an_h100_costs_its_list_price():
    machine = from_json(PROBES / "h100.json")
    price = price_of(machine.device)
    found = stage_cost(1800, price.per_hour, machine, devices=2)
    assert found.device_hours == 1
    assert found.money == price.per_hour
    assert price.basis == "list"
    assert "approximate" in price.source
    assert price_of(machine.device, currency="CNY").currency == "CNY"
    assert 350 < stage_cost(3600, None, machine, busy=0.95).watt_hours / 1.1 - 100 < 700.1


@pytest.mark.parametrize(
    ("text", "value", "currency"),
    [
        ("1.2", 1.2, "USD"),
        ("$2", 2, "USD"),
        ("8.5 CNY", 8.5, "CNY"),
        ("¥8", 8, "CNY"),
        ("9元", 9, "CNY"),
        ("0", 0, "USD"),
    ],
)
def test_the_users_price_wins(text, value, currency):
    found = price_of(lookup("h100").device(), environ={VARIABLE: text})
    assert (found.per_hour, found.currency, found.basis) == (value, currency, "user")


@pytest.mark.parametrize("text", ["cheap", "-1", "nan", "inf", "1,5"])
def test_a_price_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="is no price"):
        user_price(text)


def test_an_unknown_card_has_no_price_but_energy():
    machine = from_json(PROBES / "h100.json")
    mystery = replace(machine, devices=(Device(kind="cuda", name="mystery", power_limit_watts=300),))
    assert price_of(mystery.device) is None
    found = stage_cost(3600, None, mystery)
    assert found.money is None
    assert found.watt_hours > 100


def test_prices_are_of_known_cards_and_plausible():
    rows = table("prices")["devices"]
    assert all(name == "cpu" or lookup(name.replace("-", " ")).id == name for name in rows)
    assert all(0.01 < row[c] < 60 for row in rows.values() for c in ("usd", "cny") if c in row)
    assert {"t4", "a10", "l4", "a100-80g", "h100", "h200", "ascend-910b", "rtx-4090"} <= set(rows)
    prices = [price.per_hour for _, price in cheapest(70 * GIB)]
    assert prices == sorted(prices)
    assert all(lookup(name).memory_gib >= 70 for name, _ in cheapest(70 * GIB))


def test_a_card_draws_more_the_busier_it_is():
    card = lookup("h100").device()
    assert watts(card, 0.1) < watts(card, 0.5) < watts(card, 1.0) <= 700
    assert watts(card, 1.0, products=0.6) == 700
    assert watts(Device(kind="cpu", name="x")) == 0


# When nothing fits


def test_a_72b_on_one_24_gb_card():
    here = machine("rtx4090")
    settings = MemorySettings(length=1024)
    small = [SmallerModel(id="big", values={"parameters": 60e9}), SmallerModel(id="Q-14B", values={"parameters": 14e9})]
    found = {way.kind: way for way in ways_out(SEVENTY_TWO, 50 * GIB, here, settings, smaller=small)}
    assert "36 GB" in nf4_text(SEVENTY_TWO, here, "en")
    assert "36 GB" in nf4_text(SEVENTY_TWO, here, "zh")
    assert {"smaller_model", "streaming", "two_cards", "two_cards_offload", "cloud_card"} <= set(found)
    assert found["smaller_model"].values["model"] == "Q-14B"
    assert found["streaming"].possible  # 55 GiB of the host's memory are free
    assert found["streaming"].time_factor > 1
    assert found["two_cards"].devices >= 2
    assert found["two_cards"].needs_bytes <= here.device.memory_bytes
    assert found["two_cards_offload"].devices == 2
    assert not found["two_cards"].possible
    assert found["two_cards"].per_hour > 0
    assert lookup(found["cloud_card"].device).memory_gib >= 48
    assert found["cloud_card"].per_hour > 0
    assert "two_bit" not in found  # 24 GB of weights: they do not fit either
    for way in found.values():
        assert way.sentence("zh").endswith("。")
        assert "{" not in way.sentence("en")


def test_a_32b_on_24_gb_can_go_to_two_bits():
    shape = shape_of({"parameters": 32_763_876_352, "layers": 64, "hidden": 5120, "heads": 40, "kv_heads": 8,
                      "intermediate": 27648, "vocabulary": 152064, "head_dim": 128, "tied": False})  # fmt: skip
    found = {way.kind: way for way in ways_out(shape, 30 * GIB, machine("a10"), MemorySettings(length=1024))}
    assert found["two_bit"].quality == "lower"
    assert found["two_bit"].needs_bytes <= machine("a10").device.memory_bytes


def test_possible_ways_come_first_and_a_poor_host_cannot_stream():
    poor = replace(machine("rtx4090"), memory_free_bytes=8 * GIB)
    found = ways_out(SEVENTY_TWO, 50 * GIB, poor, MemorySettings(length=1024), currency="CNY")
    assert [way.possible for way in found] == sorted((way.possible for way in found), reverse=True)
    assert not next(way for way in found if way.kind == "streaming").possible
    assert {way.currency for way in found} == {"CNY"}


def test_a_cpu_has_no_ways_of_a_card():
    found = ways_out(SEVENTY_TWO, 300 * GIB, machine("cpu-2core"), MemorySettings(length=512, device="cpu"))
    assert {way.kind for way in found} <= {"smaller_model", "shorter", "cloud_card"}

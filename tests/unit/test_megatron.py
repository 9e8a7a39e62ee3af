"""Megatron as a way to share a training: when it is taken, why not, and a command that swift's own parser reads."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_decide import ONLINE, inputs

from autoswift.catalog.models import find
from autoswift.decide.inputs import Inputs
from autoswift.decide.planner import make_plan
from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.trial import Trial
from autoswift.engines.arguments import sft_arguments
from autoswift.engines.context import EngineContext
from autoswift.engines.megatron import PLUGIN, megatron_arguments, megatron_argv, plain_command
from autoswift.errors import InputError
from autoswift.hardware.megatron import Layout, builds, divisor, layout_of, missing
from autoswift.hardware.probe import from_json
from autoswift.hardware.shape import shape_of
from autoswift.report.commands import _parts, command_line
from autoswift.run.places import train_python_or_none
from autoswift.search.configuration import settings_in_force

PROBES = Path(__file__).resolve().parents[1] / "probes"
INSTALLED = ("bitsandbytes", "mcore-bridge", "megatron-core", "transformer-engine")
MIXTURE, DENSE, SMALL = "qwen3-30b-a3b", "qwen2.5-72b-instruct", "qwen3-8b"


def asked(model: str, packages: tuple[str, ...] = INSTALLED, *, machine: str = "h100x8", **options: Any) -> Inputs:
    """A task on a recorded machine, the model a folder of the user's."""
    made = inputs(here=ONLINE, budget=Budget(hours=72))
    found = from_json(PROBES / f"{machine}.json")
    # Half of each card is somebody else's: the mixture's 16-bit weights do not fit into what is left of one.
    devices = tuple(replace(one, free_bytes=one.free_bytes // 2) for one in found.devices)
    hardware = replace(found, devices=devices, packages=packages, disk_free_bytes=10**13)
    return replace(made, hardware=hardware, folder=find(model), task=replace(made.task, options=options, language="en"))


def why_not(plan: Plan) -> str:
    """What the plan says against Megatron."""
    return next(one.why_not for one in plan.decision("sharding").alternatives if one.value == "megatron")


def test_a_mixture_too_large_for_one_card_is_shared_by_megatron() -> None:
    plan = make_plan(asked(MIXTURE))
    training = plan.training
    assert (training.sharding, training.devices, training.method) == ("megatron", 8, "lora")
    assert training.flags["expert_model_parallel_size"] == "8"
    assert training.environment["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert "Megatron" in plan.decision("sharding").because
    assert {"none", "fsdp"} <= {one.value for one in plan.decision("sharding").alternatives}
    assert plan.estimate.peak_memory_bytes < asked(MIXTURE).hardware.device.free_bytes


def test_a_dense_model_of_72b_is_cut_by_tensors_over_nvlink() -> None:
    flags = make_plan(asked(DENSE, method="lora")).training.flags
    assert flags["tensor_model_parallel_size"] == "8"
    assert flags["sequence_parallel"] == "true"


@pytest.mark.parametrize(
    ("model", "packages", "said"),
    [
        (MIXTURE, ("bitsandbytes",), "pip install ms-swift[megatron]"),
        (SMALL, INSTALLED, "one device holds the model"),
    ],
)
def test_where_it_is_not_taken_the_plan_says_why(model: str, packages: tuple[str, ...], said: str) -> None:
    plan = make_plan(asked(model, packages))
    assert plan.training.sharding != "megatron"
    assert said in why_not(plan)


def test_the_user_may_ask_for_it_and_is_told_why_it_cannot_be() -> None:
    plan = make_plan(asked(SMALL, sharding="megatron"))
    assert (plan.training.sharding, plan.training.devices) == ("megatron", 8)
    assert plan.decision("sharding").source == "user"
    with pytest.raises(InputError, match="cannot train") as caught:
        make_plan(asked(SMALL, (), sharding="megatron"))
    assert "megatron-core" in caught.value.why
    with pytest.raises(InputError, match="cannot train"):
        make_plan(asked(SMALL, sharding="megatron", machine="h100"))


@given(st.sampled_from([MIXTURE, DENSE, SMALL]), st.sampled_from([2, 4, 8]), st.sampled_from(["nvlink", "host"]))
def test_devices_are_divided_without_a_rest(model: str, devices: int, link: str) -> None:
    facts = find(model)
    shape = shape_of(facts)
    layout = layout_of(shape, facts.model_type, devices, link)
    assert builds(facts.model_type)
    if layout is None:
        return
    assert layout.devices == devices
    assert layout.tensor * layout.pipeline * layout.data == devices
    assert layout.data % layout.expert == 0
    assert shape.layers % layout.pipeline == 0
    assert shape.kv_heads % layout.tensor == 0
    assert 1 <= divisor(shape, layout) <= devices


def test_what_does_not_divide_has_no_layout() -> None:
    shape = shape_of(find(DENSE))
    assert layout_of(shape, "qwen2", 3, "host") is None
    assert layout_of(shape, "qwen2", 1, "nvlink") is None
    assert layout_of(shape, "qwen2", 16, "nvlink") is None
    assert missing(None) == ("megatron-core", "mcore-bridge", "transformer-engine")


def launched(plan: Plan, **more: Any) -> tuple[list[str], dict[str, Any]]:
    """Arguments and settings of the plan's first trial."""
    context = EngineContext(
        folder=Path("/run"),
        model=Path("/run/model/base"),
        python=Path(sys.executable),
        train=Path("/run/data/train.jsonl"),
        validation=Path("/run/data/validation.jsonl"),
        references=(),
        score=lambda answers, references: {},
        system="You are kind.",
    )
    settings = settings_in_force(plan, Trial(number=1, attempt=1, parameters={}, tokens=20_000)) | more
    make = megatron_arguments if plan.training.sharding == "megatron" else sft_arguments
    arguments = make(context, plan.model, settings, Path("/run/trials/1/output"))
    return megatron_argv(context, arguments, plan.training.devices), settings


PARSE = """
import dataclasses, importlib.machinery, importlib.util, json, os, sys, types

def stub(name, **names):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    for key, value in names.items():
        setattr(module, key, value)
    sys.modules[name] = module
    return module

core = stub("megatron.core", __version__="0.16.0", mpu=object())
stub("megatron", core=core)
stub("megatron.core.transformer")
stub("megatron.core.transformer.enums", AttnBackend=object())
stub("mcore_bridge")
stub("mcore_bridge.model", get_mcore_model_type=None, get_model_meta=None)
root = os.path.join(os.path.dirname(importlib.util.find_spec("swift").origin), "megatron")
stub("swift.megatron").__path__ = [root]
stub("swift.megatron.utils", initialize_megatron=None)
package = stub("swift.megatron.arguments")
package.__path__ = [os.path.join(root, "arguments")]
from swift.megatron.arguments.sft_args import MegatronSftArguments
from transformers import HfArgumentParser
from swift.utils.utils import _patch_get_type_hints
import argparse
with _patch_get_type_hints():
    parser = HfArgumentParser([MegatronSftArguments])
for arguments in json.load(sys.stdin):
    found, rest = argparse.ArgumentParser.parse_known_args(parser, arguments)
    shown = {k: v for k, v in vars(found).items() if isinstance(v, (int, float, str, bool, list, type(None)))}
    print("PARSED " + json.dumps([rest, shown]))
"""


def test_swift_parses_every_argument() -> None:
    """In the training environment, by the dataclasses of swift itself.

    megatron-core and mcore-bridge are not there without a GPU. So `swift.megatron`'s own start (which patches them) is
    left out, and the handful of their names that the arguments' module imports are stubs; the fields, their types and
    their choices, which the parser is made of, are swift's. What the arguments do to each other when they are made
    (`__post_init__`) needs the model and the cards, and is not run.
    """
    python = train_python_or_none()
    if python is None:
        pytest.skip("no training environment")
    plans = [
        make_plan(asked(MIXTURE)),
        make_plan(asked(DENSE, method="lora")),
        make_plan(asked(SMALL, sharding="megatron")),
    ]
    every = [launched(one) for one in plans] + [launched(plans[0], stable_steps=3, gradient_checkpointing=True)]
    lines = [argv[argv.index("swift.cli._megatron.sft") + 1 :] for argv, _ in every]
    done = subprocess.run(
        [str(python), "-c", PARSE], input=json.dumps(lines), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [
        json.loads(line.removeprefix("PARSED ")) for line in done.stdout.splitlines() if line.startswith("PARSED")
    ]
    assert len(answers) == len(every)
    for (rest, found), (_, settings), plan in zip(answers, every, [*plans, plans[0]], strict=True):
        assert rest == []
        flags = plan.training.flags
        assert found["tensor_model_parallel_size"] == int(flags["tensor_model_parallel_size"])
        assert found["expert_model_parallel_size"] == int(flags["expert_model_parallel_size"])
        assert found["sequence_parallel"] is (found["tensor_model_parallel_size"] > 1)
        assert (found["lr"], found["train_iters"]) == (settings["learning_rate"], settings["max_steps"])
        assert found["global_batch_size"] == plan.training.effective_batch_size
        groups = 8 // (found["tensor_model_parallel_size"] * found["pipeline_model_parallel_size"])
        assert found["global_batch_size"] % (found["micro_batch_size"] * groups) == 0
        assert (found["tuner_type"], found["lora_rank"]) == ("lora", settings["lora_rank"])
        assert found["callbacks"] == ["autoswift"]
        assert found["check_model"] is False
    assert answers[3][1]["recompute_granularity"] == "full"
    assert answers[3][1]["lr_wsd_decay_iters"] == every[3][1]["max_steps"] - 3


REPORT = """
import importlib.util, json, os, sys, types

def stub(name, **names):
    module = types.ModuleType(name)
    module.__path__ = []
    for key, value in names.items():
        setattr(module, key, value)
    sys.modules[name] = module

class Callback:
    def __init__(self, trainer):
        self.trainer, self.args, self.state = trainer, trainer.args, trainer.state

callbacks = {}
stub("swift")
stub("swift.callbacks", TrainerCallback=object, callbacks_map={})
stub("swift.utils", is_last_rank=lambda: True)
stub("swift.megatron")
stub("swift.megatron.callbacks", MegatronCallback=Callback, megatron_callbacks_map=callbacks)
spec = importlib.util.spec_from_file_location("plugin", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
trainer = types.SimpleNamespace(
    args=types.SimpleNamespace(train_iters=5, global_batch_size=8), state=types.SimpleNamespace(iteration=0)
)
one = callbacks["autoswift"](trainer)
one.on_train_begin()
while trainer.state.iteration < trainer.args.train_iters:
    trainer.state.iteration += 1
    if trainer.state.iteration == 2:
        open(sys.argv[2], "w").close()
    one.on_step_end()
    one.on_log({"loss": 2.0 / trainer.state.iteration, "grad_norm": 1.0, "learning_rate": 1e-4})
one.on_log({"eval_loss": 0.75})
one.on_save(output_dir="out/checkpoint-2")
one.on_train_end()
"""


def test_the_plug_in_reports_in_the_words_of_the_other_and_stops_when_asked(tmp_path: Path) -> None:
    """Against stubs of swift's Megatron callbacks: what it says to the control process, not what Megatron does."""
    python = train_python_or_none()
    if python is None:
        pytest.skip("no training environment")
    channel, stop = tmp_path / "events.jsonl", tmp_path / "stop"
    (tmp_path / "trial.json").write_text(json.dumps({"channel": str(channel), "stop_file": str(stop)}))
    done = subprocess.run(
        [str(python), "-c", REPORT, str(PLUGIN), str(stop)],
        env={"AUTOSWIFT_TRIAL": str(tmp_path / "trial.json"), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in channel.read_text(encoding="utf-8").splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds == ["started", "progress", "stopping", "progress", "evaluated", "saved", "finished"]
    assert lines[3]["metrics"]["loss"] == 1.0
    assert lines[4]["final"] is True
    assert lines[4]["metrics"]["nll"] == 0.75
    assert lines[5]["checkpoint"].endswith("out/checkpoint-2")
    assert lines[6]["stopped"] == "stop_file"


def test_the_command_is_printed_with_its_environment() -> None:
    plan = make_plan(asked(MIXTURE))
    argv, _ = launched(plan)
    assert argv[1:8] == [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "8",
        "-m",
        "swift.cli._megatron.sft",
    ]
    arguments = argv[8 : argv.index("--external_plugins")]
    line = command_line(*_parts(plain_command(arguments, plan.training.environment, 8, megatron=True)))
    assert "NPROC_PER_NODE=8" in line
    assert "CUDA_DEVICE_MAX_CONNECTIONS=1" in line
    assert "megatron sft --model /run/model/base" in line
    assert "--expert_model_parallel_size 8" in line
    assert "env" not in plain_command(arguments, {}, 1, megatron=False)


def test_what_the_plan_settles_reaches_swift() -> None:
    """Sharding, attention, Liger and the device's own flags are settings of a trial like its learning rate."""
    plan = make_plan(asked(DENSE, ("bitsandbytes", "liger-kernel"), method="lora"))
    assert (plan.training.sharding, plan.training.devices) == ("fsdp", 8)
    plan = replace(plan, training=replace(plan.training, attention="flash_attn", flags={"tf32": "true"}))
    argv, settings = launched(plan)
    words = dict(pairwise(argv))
    assert words["--fsdp"] == "fsdp2"
    assert words["--attn_impl"] == "flash_attn"
    assert words["--tf32"] == "true"
    assert ("--use_liger_kernel" in words) is plan.training.use_liger_kernel
    one_update = int(words["--per_device_train_batch_size"]) * int(words["--gradient_accumulation_steps"]) * 8
    assert one_update == plan.training.effective_batch_size == settings["devices"] * one_update // 8


def test_a_layout_names_its_environment_and_flags() -> None:
    layout = Layout(tensor=4, pipeline=2, devices=8)
    assert layout.data == 1
    assert layout.flags()["pipeline_model_parallel_size"] == "2"

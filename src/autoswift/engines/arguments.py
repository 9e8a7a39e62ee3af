"""Settings as the arguments of `swift sft` 4.6."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoswift.domain.plan import ModelChoice
from autoswift.engines.context import EngineContext

PLUGIN = Path(__file__).parent / "children" / "swift_plugin.py"

LONG_STEPS = 40
"""A training of more steps is saved on its way."""

SHARDING: dict[str, dict[str, str]] = {
    "ddp": {},
    "zero2": {"deepspeed": "zero2"},
    "zero3": {"deepspeed": "zero3"},
    "fsdp": {"fsdp": "fsdp2"},
}
"""swift's own configurations for several devices; the launcher is torchrun, by NPROC_PER_NODE."""


def sft_arguments(context: EngineContext, model: ModelChoice, settings: Mapping[str, Any], output: Path) -> list[str]:
    """The arguments after `python -m swift.cli.sft`, without our plug-in.

    Args:
        settings: from `search.configuration.settings_in_force`.
        output: the trainer's output folder.
    """
    pairs: dict[str, Any] = {
        "model": context.model,
        "model_type": model.model_type,
        "template": model.template,
        "system": context.system,
        "dataset": context.train,
        "output_dir": output,
        "add_version": "false",
        "check_model": "false",  # else swift asks a hub, and hangs where there is no network
        "torch_dtype": settings["precision"],
        "tuner_type": "full" if settings["method"] == "full" else "lora",
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": settings["lr_scheduler_type"],
        "warmup_ratio": settings["warmup_ratio"],
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["max_grad_norm"],
        "max_length": settings["max_length"],
        "per_device_train_batch_size": settings["per_device_train_batch_size"],
        "gradient_accumulation_steps": settings["gradient_accumulation_steps"],
        "gradient_checkpointing": str(settings["gradient_checkpointing"]).lower(),
        "optim": settings["optimizer"],
        "max_steps": settings["max_steps"],
        "seed": settings["seed"],
        "data_seed": settings["seed"],
        "split_dataset_ratio": 0,
        "eval_strategy": "no",  # the plug-in measures at the end, on the plan's own validation rows
        "save_strategy": "steps",
        "save_steps": settings["max_steps"],
        "save_total_limit": 2,  # the one before stays until this one is written and sealed
        "save_only_model": "true",  # the plug-in turns it off where it saves for a training that may be cut off
        "logging_steps": 1,
        "logging_nan_inf_filter": "false",  # else a NaN is logged as the loss before it
        "dataset_num_proc": 1,
        "load_from_cache_file": "false",
        "lazy_tokenize": "false",
        "dataloader_num_workers": 0,
        "dataloader_persistent_workers": "false",
        "report_to": "none",
    }
    if settings["method"] != "full":
        pairs |= {
            "lora_rank": settings["lora_rank"],
            "lora_alpha": settings["lora_alpha"],
            "lora_dropout": settings["lora_dropout"],
            "target_modules": settings["target_modules"],
        }
    if settings["method"] != "full" and settings["max_steps"] > LONG_STEPS:
        # Numbers that go wrong late cost a quarter of it at most; an adapter's optimizer is small.
        pairs |= {
            "save_steps": settings["max_steps"] // 4,
            "save_total_limit": 2,
            "save_only_model": "false",
        }
    if settings.get("stable_steps"):
        pairs |= {
            "lr_scheduler_kwargs": json.dumps({"num_decay_steps": settings["max_steps"] - settings["stable_steps"]}),
            "save_only_model": "false",  # it may be continued, from where its rate began to fall
            "save_total_limit": 2,
        }
    pairs |= settings.get("flags") or {}
    if settings.get("use_liger_kernel"):
        pairs["use_liger_kernel"] = "true"
    if settings.get("attention", "sdpa") != "sdpa":
        pairs["attn_impl"] = settings["attention"]
    if settings.get("devices", 1) > 1:
        pairs |= SHARDING[settings["sharding"]]
    if settings["method"] == "qlora":
        pairs |= {"quant_method": "bnb", "quant_bits": 4, "bnb_4bit_compute_dtype": settings["precision"]}
    return [part for key, value in pairs.items() if value != "" for part in (f"--{key}", str(value))]


def sft_argv(context: EngineContext, arguments: list[str], devices: int = 1) -> list[str]:
    """The command that a trial runs: swift's own entry, with our callback.

    Args:
        context: of the session.
        arguments: from `sft_arguments`.
        devices: processes that share the training, started by torchrun.
    """
    # swift.cli.sft itself, not the `swift` wrapper: the wrapper's child outlives a signal to it.
    shared = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(devices)] if devices > 1 else []
    return [
        str(context.python),
        *shared,
        "-m",
        "swift.cli.sft",
        *arguments,
        "--external_plugins",
        str(PLUGIN),
        "--callbacks",
        "autoswift",
    ]

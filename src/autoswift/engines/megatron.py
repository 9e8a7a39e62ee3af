"""Settings as the arguments of `megatron sft` of ms-swift 4.6, and the command that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoswift.domain.plan import ModelChoice
from autoswift.engines.context import EngineContext

PLUGIN = Path(__file__).parent / "children" / "megatron_plugin.py"
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant", "warmup_stable_decay": "WSD"}
"""Of transformers' schedules, those that Megatron has, by its own names; any other becomes cosine."""


def megatron_arguments(
    context: EngineContext, model: ModelChoice, settings: Mapping[str, Any], output: Path
) -> list[str]:
    """The arguments after `megatron sft`, without our plug-in.

    The optimizer is told what transformers' has for a default, so that a learning rate means the same; an update is of
    exactly the effective batch, however the devices are divided.

    Args:
        settings: from `search.configuration.settings_in_force`; `flags` holds how the devices are divided.
        output: the trainer's output folder.
    """
    micro, steps = int(settings["per_device_train_batch_size"]), int(settings["max_steps"])
    pairs: dict[str, Any] = {
        "model": context.model,
        "model_type": model.model_type,
        "template": model.template,
        "system": context.system,
        "dataset": context.train,
        "val_dataset": context.validation,
        "output_dir": output,
        "add_version": "false",
        "check_model": "false",  # else swift asks a hub, and hangs where there is no network
        "torch_dtype": settings["precision"],
        "tuner_type": "full" if settings["method"] == "full" else "lora",
        "lr": settings["learning_rate"],
        "lr_decay_style": SCHEDULES.get(str(settings["lr_scheduler_type"]), "cosine"),
        "lr_warmup_fraction": settings["warmup_ratio"],
        "min_lr": 0,
        "weight_decay": settings["weight_decay"],
        "clip_grad": settings["max_grad_norm"],
        "adam_beta2": 0.999,
        "max_length": settings["max_length"],
        "micro_batch_size": micro,
        "global_batch_size": micro * int(settings["gradient_accumulation_steps"]) * int(settings.get("devices", 1)),
        "train_iters": steps,
        "seed": settings["seed"],
        "data_seed": settings["seed"],
        "split_dataset_ratio": 0,
        "save_steps": steps,
        "eval_steps": steps,
        "no_save_optim": "true",  # a broken attempt is trained anew, so the optimizer need not be kept
        "no_save_rng": "true",
        "merge_lora": "false",  # a stage of its own merges, and proves it
        "logging_steps": 1,
        "dataset_num_proc": 1,
        "load_from_cache_file": "false",
        "dataloader_num_workers": 0,
        "dataloader_persistent_workers": "false",
        "attention_backend": "flash" if settings.get("attention") == "flash_attn" else "auto",
        "padding_free": "true" if settings.get("attention") == "flash_attn" else "false",
    }
    if settings["gradient_checkpointing"]:
        pairs |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    else:
        pairs["recompute_granularity"] = "none"
    if settings["method"] != "full":
        pairs |= {
            "lora_rank": settings["lora_rank"],
            "lora_alpha": settings["lora_alpha"],
            "lora_dropout": settings["lora_dropout"],
            "target_modules": settings["target_modules"],
        }
    if settings.get("stable_steps"):
        pairs["lr_wsd_decay_iters"] = steps - int(settings["stable_steps"])
        pairs["lr_wsd_decay_style"] = "linear"
    pairs |= settings.get("flags") or {}
    return [part for key, value in pairs.items() if value != "" for part in (f"--{key}", str(value))]


def megatron_argv(context: EngineContext, arguments: list[str], devices: int) -> list[str]:
    """The command that a trial runs: what swift's `megatron` starts, with our callback.

    Args:
        context: of the session.
        arguments: from `megatron_arguments`.
        devices: of this machine, one process each.
    """
    return [
        str(context.python),
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(devices),
        "-m",
        "swift.cli._megatron.sft",
        *arguments,
        "--external_plugins",
        str(PLUGIN),
        "--callbacks",
        "autoswift",
    ]


def plain_command(
    arguments: list[str], environment: Mapping[str, str], devices: int, *, megatron: bool
) -> dict[str, Any]:
    """The command as a person would run it, without us: {argv, env}; env only where several devices share it.

    Args:
        arguments: of swift. environment: that the plan asks for. devices: that share the training.
        megatron: by `megatron sft`, else by `swift sft`.
    """
    argv = ["megatron" if megatron else "swift", "sft", *arguments]
    return {"argv": argv} if devices <= 1 else {"argv": argv, "env": {"NPROC_PER_NODE": str(devices), **environment}}

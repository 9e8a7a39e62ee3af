"""swift's arguments for a pack: those of the command, and those that no pack knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoswift.engines.children.packed_data import pairs
from autoswift.engines.children.packed_head import Refused

FOREIGN = {
    "neftune_noise_alpha": None,
    "label_smoothing_factor": 0,
    "loss_type": None,
    "enable_dft_loss": False,
    "enable_channel_loss": False,
    "packing": False,
    "padding_free": False,
    "lorap_lr_ratio": None,
    "router_aux_loss_coef": 0,
    "optimizer": None,
    "use_galore": False,
    "lora_bias": "none",
    "lora_dtype": None,
    "streaming": False,
    "use_swift_lora": False,
    "target_parameters": None,
    "sequence_parallel_size": 1,
}
"""Arguments of swift that change a training in a way that a pack does not know, and the value that does not."""


def check(args: Any) -> None:
    """Are these arguments of a training that can be packed?

    Raises:
        Refused: when they are not.
    """
    for name, harmless in FOREIGN.items():
        value = getattr(args, name, harmless)
        if value not in (harmless, None, False, 0, "", []):
            raise Refused("arguments", f"--{name} {value} is not for packed trials")
    if str(args.init_weights).lower() != "true":
        raise Refused("arguments", f"--init_weights {args.init_weights} is not for packed trials")
    if args.modules_to_save:
        raise Refused("arguments", "whole modules are trained beside the adapters")
    if getattr(args.model_meta, "is_multimodal", False):
        raise Refused("architecture", "the base takes more than text")


def arguments_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """swift's arguments: those that were given, and over them what the command says itself."""
    found = pairs(request.get("arguments") or {})
    names = {"model": "model", "model_type": "model_type", "template": "template", "torch_dtype": "torch_dtype"}
    found |= {theirs: request[ours] for ours, theirs in names.items() if request.get(ours)}
    if request.get("train"):
        found["dataset"] = request["train"]
    if request.get("target_modules"):
        found["target_modules"] = request["target_modules"]
    found.setdefault("check_model", "false")
    found["tuner_type"] = "lora"
    if request.get("quant") == "nf4":
        found |= {
            "quant_method": "bnb",
            "quant_bits": 4,
            "bnb_4bit_compute_dtype": found.get("torch_dtype", "bfloat16"),
        }
    found.pop("callbacks", None)
    found.pop("external_plugins", None)
    return found

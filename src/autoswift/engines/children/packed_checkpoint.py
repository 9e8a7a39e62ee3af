"""A trial on the disk: a normal PEFT adapter, and beside it what its training needs to go on. No pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autoswift.engines.children.packed_head import Refused
from autoswift.engines.children.packed_layers import RowPlan
from autoswift.engines.children.packed_trial import Trial

WEIGHTS, MOMENTS, STATE = "adapter_model.safetensors", "packed_state.safetensors", "packed_state.json"

NAMES = {"first": "exp_avg", "second": "exp_avg_sq"}


def as_peft(row: Any, plan: RowPlan, rank: int, *, dora: bool) -> dict[str, Any]:
    """A row by PEFT's names and shapes: A `[rank, in]`, B `[out, rank]`, m `[out]`."""
    found: dict[str, Any] = {}
    for target, a, b, m in plan.split(row.detach().cpu()):
        found[f"{target.base}.lora_A.weight"] = a[:, :rank].T.contiguous()
        found[f"{target.base}.lora_B.weight"] = b[:rank].T.contiguous()
        if dora and m is not None:
            found[f"{target.base}.lora_magnitude_vector"] = m.contiguous()
    return found


def as_row(tensors: Mapping[str, Any], plan: RowPlan, rank: int) -> Any:
    """The opposite of `as_peft`.

    Raises:
        Refused: when the file is not of this base and rank.
    """
    row = torch.zeros(plan.size)
    for target, a, b, m in plan.split(row):
        try:
            a[:, :rank].copy_(tensors[f"{target.base}.lora_A.weight"].T)
            b[:rank].copy_(tensors[f"{target.base}.lora_B.weight"].T)
        except (KeyError, RuntimeError) as error:
            raise Refused("checkpoint", f"the checkpoint does not fit {target.name}: {error}") from error
        magnitude = tensors.get(f"{target.base}.lora_magnitude_vector")
        if m is not None and magnitude is not None:
            m.copy_(magnitude)
    return row


def save(trial: Trial, plan: RowPlan, model: str, target_modules: Any, arguments: Any = None) -> Path:
    """Writes `checkpoint-<step>` in the trial's folder, whole or not at all.

    Args:
        trial: with or without a slot. plan: of its row. model: the base's folder.
        target_modules: as PEFT takes them. arguments: swift's, kept as args.json where given.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    if trial.parameter is None:
        raise RuntimeError("the trial has not begun")
    s = trial.settings
    final = trial.folder / f"checkpoint-{trial.step}"
    place = final.with_name(final.name + ".part")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    weights = as_peft(trial.parameter.data, plan, s.lora_rank, dora=s.use_dora)
    save_file(weights, place / WEIGHTS, metadata={"format": "pt"})
    LoraConfig(
        r=s.lora_rank,
        lora_alpha=s.lora_alpha,
        lora_dropout=s.lora_dropout,
        use_dora=s.use_dora,
        use_rslora=s.use_rslora,
        target_modules=target_modules,
        task_type="CAUSAL_LM",
        base_model_name_or_path=model,
        inference_mode=True,
    ).save_pretrained(str(place))
    if arguments is not None:
        arguments.save_args(str(place))
    moments: dict[str, Any] = {}
    found = trial.optimizer.state.get(trial.parameter, {})
    for short, name in NAMES.items():
        if name in found:
            part = as_peft(found[name], plan, s.lora_rank, dora=s.use_dora)
            moments |= {f"{short}.{key}": tensor for key, tensor in part.items()}
    save_file(moments, place / MOMENTS)
    state = {
        "step": trial.step,
        "tokens": trial.tokens,
        "micro": trial.micro,
        "updates": int(found["step"]) if "step" in found else 0,
        "lora_rank": s.lora_rank,
    }
    (place / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    for file in place.iterdir():  # on the disk before the name that promises it
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    shutil.rmtree(final, ignore_errors=True)
    place.rename(final)
    return final


def load(trial: Trial, plan: RowPlan, folder: Path) -> None:
    """Begins a trial where a checkpoint stands; the trial is new and on the host.

    Raises:
        Refused: when the folder holds no state of a packed trial, or of another rank.
    """
    from safetensors.torch import load_file

    if not (folder / STATE).is_file() or not (folder / MOMENTS).is_file():
        raise Refused("checkpoint", f"{folder} holds no state of a packed trial")
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    rank = trial.settings.lora_rank
    if int(state["lora_rank"]) != rank:
        raise Refused("checkpoint", f"{folder} has rank {state['lora_rank']}, the trial {rank}")
    trial.start(as_row(load_file(folder / WEIGHTS), plan, rank))
    moments = load_file(folder / MOMENTS)
    trial.step, trial.tokens, trial.micro = int(state["step"]), int(state["tokens"]), int(state["micro"])
    if moments:
        values = {
            name: as_row(
                {k.removeprefix(f"{short}."): v for k, v in moments.items() if k.startswith(f"{short}.")}, plan, rank
            )
            for short, name in NAMES.items()
        }
        trial.optimizer.state[trial.parameter] = {"step": torch.tensor(float(state["updates"])), **values}
    trial.resume_schedule()

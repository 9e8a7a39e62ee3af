"""What recovery may change later, settled with the plan: what runs on the machine, and what the user consents to."""

from __future__ import annotations

from autoswift.decide.inputs import Inputs
from autoswift.decide.way import Way
from autoswift.domain.plan import RecoverySettings


def recovery_settings(inputs: Inputs, way: Way) -> RecoverySettings:
    """From the machine and the task.

    Args:
        inputs: of the plan. way: how it is trained, with the device's profile.
    """
    device = inputs.hardware.device
    return RecoverySettings(
        allow_truncate=inputs.task.allow_truncate,
        liger=way.room.liger,
        # bitsandbytes brings both; its optimizers have no kernels for other devices.
        bits=device.kind == "cuda" and "bnb-nf4" in way.profile.quantization,
        bfloat16=device.bf16,
        other_model=inputs.task.model is None,
    )

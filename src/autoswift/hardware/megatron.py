"""Megatron as a way to share one training: which models it builds, and how the devices are divided among its axes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from autoswift.hardware.shape import ModelShape
from autoswift.tables import table


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How many devices each kind of parallelism takes.

    Attributes:
        tensor: that share each matrix. pipeline: that share the layers. expert: that share a mixture's experts; these
            are taken from the data-parallel ones. devices: all.
    """

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    devices: int = 1

    @property
    def data(self) -> int:
        """Groups that train on different rows."""
        return max(1, self.devices // (self.tensor * self.pipeline))

    def flags(self) -> dict[str, str]:
        """Arguments of `megatron sft`, without dashes."""
        found = {
            "tensor_model_parallel_size": str(self.tensor),
            "pipeline_model_parallel_size": str(self.pipeline),
            "expert_model_parallel_size": str(self.expert),
        }
        # Without it each device of a tensor group keeps all activations between the matrices.
        return found | ({"sequence_parallel": "true"} if self.tensor > 1 else {})

    def environment(self) -> dict[str, str]:
        """Variables of the training: kernels and transfers must be queued in one order to overlap."""
        return {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}


def layout_of(shape: ModelShape, model_type: str, devices: int, link: str) -> Layout | None:
    """How a model is divided among all devices of a machine; None where it does not divide.

    A mixture's experts are its bulk: they are spread, and every device trains on rows of its own. A dense model's
    matrices are cut where the links are fast enough to join them twice a layer (NVLink), else its layers.

    Args:
        shape: of the model. model_type: ms-swift's.
        devices: of the machine, all alike. link: nvlink, p2p or host, between them.
    """
    if devices < 2 or devices > int(table("megatron")["most"]):
        return None
    experts = int(table("megatron")["types"].get(model_type, 0))
    if shape.mixture and experts:
        return Layout(expert=devices, devices=devices) if devices <= experts and not devices & (devices - 1) else None
    if link == "nvlink" and shape.heads % devices == 0 and shape.kv_heads % devices == 0:
        return Layout(tensor=devices, devices=devices)
    return Layout(pipeline=devices, devices=devices) if shape.layers % devices == 0 else None


def divisor(shape: ModelShape, layout: Layout) -> float:
    """By how much a device's share of the weights is smaller than the whole."""
    model = layout.tensor * layout.pipeline
    if not shape.mixture:
        return float(model)
    experts = 3 * shape.hidden * shape.experts_intermediate * shape.layers / shape.parameters
    return 1 / (experts / (layout.expert * layout.pipeline) + (1 - experts) / model)


def missing(packages: Collection[str] | None) -> tuple[str, ...]:
    """What Megatron needs and the training environment lacks; all of it where that is not known."""
    return tuple(name for name in table("megatron")["packages"] if name not in (packages or ()))


def builds(model_type: str) -> bool:
    """Whether a Megatron model can be made of this type."""
    return model_type in table("megatron")["types"]

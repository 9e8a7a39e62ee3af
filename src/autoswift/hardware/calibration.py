"""A device as it was measured, instead of as the table says; and where a measurement is kept.

The measuring program is children/device_rate.py, run in the training environment; here is what its numbers mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoswift.domain.profile import Device
from autoswift.hardware.devices import MEMORY_SHARE, sustained_from_products

PROGRAM = Path(__file__).with_name("children") / "device_rate.py"
SECONDS = 90.0
"""For the program, most of it torch's import on a cold disk; it measures for 2 to 5 seconds itself."""
PRODUCTS_OVER_MEASURED = 1.1
"""What products reach inside a step over large ones alone. H100: 791 TFLOP/s inside steps, 715 alone on the same card,
where 8192-wide products run into the power limit."""
PLAUSIBLE = (0.1, 1.5)
"""Of the table's value. Below, something else was using the device, or its clocks were not up: the measurement says
little about training; above, the clock was wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the program found. 0 where the device cannot do it or it was not measured.

    Attributes:
        bf16_tflops, fp16_tflops, fp32_tflops: of large matrix products.
        bandwidth: GB/s of copying, bytes read and written both counted.
        launch_seconds: what giving the device one small operation costs the processor.
    """

    kind: str
    bf16_tflops: float = 0.0
    fp16_tflops: float = 0.0
    fp32_tflops: float = 0.0
    bandwidth: float = 0.0
    launch_seconds: float = 0.0


def parse_measured(text: str) -> Measured | None:
    """The program's last line; None when it printed none or something else."""
    for line in reversed(text.splitlines()):
        try:
            told = json.loads(line)
            numbers = {n: float(told.get(n, 0.0)) for n in Measured.__dataclass_fields__ if n != "kind"}
            return Measured(kind=str(told["kind"]), **numbers) if min(numbers.values()) >= 0 else None
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return None


def calibrated(device: Device, measured: Measured | None) -> Device:
    """The device with its measured rates; unchanged when there is no measurement, or none that can be believed.

    Args:
        device: from the probe or the table.
        measured: of the same device.
    """
    if measured is None or measured.kind != device.kind:
        return device
    half = measured.bf16_tflops if device.bf16 and measured.bf16_tflops > 0 else measured.fp16_tflops
    products = half or measured.fp32_tflops
    if products <= 0 or device.kind == "cpu":  # the CPU's rate is measured by its own probe
        return device
    rate = measured.bandwidth / MEMORY_SHARE if measured.bandwidth > 0 else device.bandwidth
    sustained = sustained_from_products(products * PRODUCTS_OVER_MEASURED, rate)
    if device.tflops > 0 and not PLAUSIBLE[0] <= sustained / device.tflops <= PLAUSIBLE[1]:
        return device
    share = sustained / products
    return replace(
        device,
        tflops=round(sustained, 2),
        tflops_source=f"measured: {products:.1f} TFLOP/s in matrix products x {share:.2f} sustained",
        bandwidth=round(rate, 1),
        launch_seconds=measured.launch_seconds or device.launch_seconds,
    )


def measuring_command(python: Path, device: Device) -> list[str]:
    """The command that measures the device, for a child of the training environment; it prints one JSON line.

    Args:
        python: the training environment's interpreter.
        device: the number is 0, since the child sees this device alone (`DeviceProfile.environment`).
    """
    return [str(python), "-I", str(PROGRAM), device.kind, "0"]


def cache_key(device: Device, torch: str) -> str:
    """Names a measurement: another driver or torch is another speed."""
    parts: list[Any] = [device.kind, device.name, device.uuid or device.index, device.driver, torch]
    return " ".join(str(part) for part in parts if part != "")

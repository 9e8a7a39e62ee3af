"""Where things are: $AUTOSWIFT_HOME, the runs, the training environment."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from autoswift.errors import EnvironmentMissing
from autoswift.run import locks
from autoswift.tables import explain


def home() -> Path:
    """`$AUTOSWIFT_HOME`, by default `~/.autoswift`."""
    return Path(os.environ.get("AUTOSWIFT_HOME") or Path.home() / ".autoswift").expanduser().resolve()


def runs_folder() -> Path:
    """Where runs are kept; a run put elsewhere by --out is registered here by a link file."""
    return home() / "runs"


def existing(path: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    while not path.is_dir():
        path = path.parent
    return path


def cache_folder() -> Path:
    """Downloaded and unpacked models."""
    return home() / "cache"


def train_environment() -> Path:
    """The folder of the training environment that `autoswift setup` makes."""
    return home() / "envs" / "train"


def train_python_or_none() -> Path | None:
    """The interpreter of the training environment, or None when there is none.

    In this order: `$AUTOSWIFT_TRAIN_PYTHON`; the current environment when it has ms-swift (a checkout);
    the environment that `autoswift setup` made.
    """
    named = os.environ.get("AUTOSWIFT_TRAIN_PYTHON")
    if named:
        path = Path(named).expanduser()
        if not os.access(path, os.X_OK):
            raise EnvironmentMissing(*explain("places.not_program", named=named))
        return path
    if importlib.util.find_spec("swift") and importlib.util.find_spec("torch"):
        return Path(sys.executable)
    made = train_environment() / "bin" / "python"
    return made if locks.is_complete(train_environment()) and os.access(made, os.X_OK) else None


def train_python() -> Path:
    """The interpreter of the training environment.

    Raises:
        EnvironmentMissing: when there is none.
    """
    found = train_python_or_none()
    if found is None:
        raise EnvironmentMissing(*explain("places.no_environment"))
    return found


OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
"""Children work on staged local files only; without these swift asks hubs and hangs where there is no network."""


def child_environment(threads: int, extra: dict[str, str] | None = None) -> dict[str, str]:
    """The explicit environment of a child: what a program needs to start, nothing else of ours.

    Args:
        threads: CPU threads for numeric libraries; 0 leaves the choice to them.
        extra: further variables.
    """
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "USER")
    prefixes = ("CUDA_", "NVIDIA_", "ASCEND_", "NCCL_", "OPENBLAS_", "AUTOSWIFT_HOME")
    env = {k: v for k, v in os.environ.items() if k in kept or k.startswith(prefixes)}
    env |= OFFLINE | {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "TOKENIZERS_PARALLELISM": "false"}
    if threads > 0:
        env |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    return env | (extra or {})

"""What every test gets: a home folder of its own, no network, and the same random examples each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from autoswift.tables import use_language

# No deadline: the machine may be busy training. Derandomized: a failure in one clone is a failure in all.
settings.register_profile(
    "autoswift", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("autoswift")


@pytest.fixture(autouse=True)
def autoswift_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`$AUTOSWIFT_HOME` in a temporary folder; no setting of the person who runs the tests reaches them."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("AUTOSWIFT_HOME", str(home))
    monkeypatch.delenv("AUTOSWIFT_TRAIN_PYTHON", raising=False)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    return home


@pytest.fixture(autouse=True)
def english_errors() -> None:
    """The language of errors is the process's: a test that ran in Chinese leaves nothing to the next."""
    use_language("en")

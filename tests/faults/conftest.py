"""What fault tests count is printed at the end: `make test-faults` says how much was broken, and what was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Tell = Callable[[str], None]


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Takes a line for the end of the session."""
    return lambda words: request.node.user_properties.append(("fault", words))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    told = [
        (report.nodeid.rpartition("::")[2], report.outcome, words)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, words in getattr(report, "user_properties", ())
        if name == "fault" and report.when == "call"
    ]
    if told:
        terminalreporter.section("faults injected")
    for test, outcome, words in told:
        terminalreporter.write_line(f"{'' if outcome == 'passed' else outcome.upper() + ' '}{words}   [{test}]")

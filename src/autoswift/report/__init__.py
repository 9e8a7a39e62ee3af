"""The report of a run: one self-contained page."""

from autoswift.report.build import build, write

__all__ = ["build", "write"]

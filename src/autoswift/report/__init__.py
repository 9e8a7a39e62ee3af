"""The report of a run, and the page of a data file: each one self-contained."""

from autoswift.report.build import build, data_page, write, write_data_page, write_refusal_page

__all__ = ["build", "data_page", "write", "write_data_page", "write_refusal_page"]

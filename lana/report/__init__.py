"""The report of a run: in the terminal (`lana.delivery.summary`), as one HTML file, as plots."""

from lana.report.data import gather
from lana.report.page import write_report

__all__ = ["gather", "write_report"]

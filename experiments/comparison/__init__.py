"""`python -m experiments report`: runs side by side, as one HTML page that needs no network.

Any experiment takes part whose `metrics.json` has "tables" and "figures" (`experiments.report.Table` and `Figure`).
"""

from experiments.comparison.cells import join_cells as join_cells
from experiments.comparison.command import Comparison as Comparison
from experiments.comparison.command import ReportCommand as ReportCommand
from experiments.comparison.command import compare as compare
from experiments.comparison.joining import differing_settings as differing_settings
from experiments.comparison.reading import Run as Run
from experiments.comparison.reading import read_runs as read_runs
from experiments.comparison.reading import settings_of as settings_of

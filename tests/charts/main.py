"""Tests of the chart. `main.py WORD…` runs those whose name has one of the words."""
import sys

import broken_tests  # noqa: F401
import chart_tests  # noqa: F401
import monitoring_tests  # noqa: F401
import service_tests  # noqa: F401
from suite import run

sys.exit(run())

"""Lets pytest import the benchmarks."""

import sys
from pathlib import Path

FOLDER = str(Path(__file__).parents[2] / "benchmarks")

if FOLDER not in sys.path:
    sys.path.append(FOLDER)

"""Lets pytest import what check.py imports by standing in this folder: the checks, and benchmarks/paired.py."""

import sys
from pathlib import Path

FOLDERS = (Path(__file__).parent, Path(__file__).parents[2] / "benchmarks")

sys.path.extend(str(folder) for folder in FOLDERS if str(folder) not in sys.path)

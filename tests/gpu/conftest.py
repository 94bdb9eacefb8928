"""Lets pytest import what check.py imports: the checks beside it, and benchmarks/paired.py."""

import os
import sys
from pathlib import Path

FOLDERS = (Path(__file__).parent, Path(__file__).parents[2] / "benchmarks")

sys.path.extend(str(folder) for folder in FOLDERS if str(folder) not in sys.path)

# As check.py does, before CUDA is touched: bit-exact resume needs cuBLAS to keep to one workspace.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

"""The fleet's fakes, and the helpers beside the tests of faults, on the path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FAKES = HERE.parent / "fleet"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "token")
for folder in (str(HERE), str(FAKES)):
    if folder not in sys.path:
        sys.path.insert(0, folder)

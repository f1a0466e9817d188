"""The fleet's fakes on the path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FAKES = Path(__file__).resolve().parents[1] / "fleet"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "token")
if str(FAKES) not in sys.path:
    sys.path.insert(0, str(FAKES))

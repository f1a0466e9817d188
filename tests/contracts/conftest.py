"""Makes `adapter_cells` importable by the contract tests, and adapters of your own known to them.

BEM_ADAPTER_FOLDERS=path/to/mine python -m pytest tests/contracts/test_adapters.py -k mine
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bem import add_adapter_folder

sys.path.insert(0, str(Path(__file__).parent))
for folder in os.environ.get("BEM_ADAPTER_FOLDERS", "").split(os.pathsep):
    if folder:
        add_adapter_folder(folder)

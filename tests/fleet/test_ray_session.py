"""What the start of Ray refuses. No Ray is started here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

IMPORTS_RAY_FIRST = """
import ray, sys
from fleet.driver.ray_session import ray_session
from fleet.errors import UnfitEnvironmentError
from types import SimpleNamespace
settings = SimpleNamespace(session="", address=None, paths=SimpleNamespace(run_id="r"))
try:
    with ray_session(settings):
        sys.exit("Ray started")
except UnfitEnvironmentError as error:
    print(error)
"""


def test_a_driver_that_imported_ray_without_authentication_is_told() -> None:
    """Ray reads the mode at import; its daemons would wait for tokens that never come."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    environment["PYTHONPATH"] = str(ROOT)
    child = subprocess.run(
        [sys.executable, "-c", IMPORTS_RAY_FIRST],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert "Ray was imported before the launch, without RAY_AUTH_MODE=token" in child.stdout

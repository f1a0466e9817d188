"""schemathesis draws requests from the OpenAPI document, with tokens and without: none breaks the
server, and every answer is one that the document names.

With names of models that are served, a request may still ask for what a model cannot do (hints of a
planner), so there only that check is left out which wants every well-formed request accepted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_shop import Shop

from bem import load_base
from fleet.serving.local import serving
from fleet.serving.server import Server
from fleet.serving.tokens import ADMIN_VARIABLE, TOKENS_VARIABLE, Secrets, read_secrets

HOOKS = Path(__file__).resolve().parents[1] / "schemathesis_hooks.py"
TOKEN, BOSS = "client-token-0123456789", "admin-token-0123456789"
EXAMPLES = 6


@pytest.mark.parametrize("way", ["open", "tokens", "served names"])
def test_no_request_that_the_document_allows_or_forbids_breaks_it(
    shop: Shop, tmp_path: Path, way: str
) -> None:
    secrets, more, environ = Secrets(), [], dict(os.environ)
    if way == "tokens":
        secrets = read_secrets(None, None, {TOKENS_VARIABLE: TOKEN, ADMIN_VARIABLE: BOSS})
        more = ["-H", f"Authorization: Bearer {BOSS}"]
    if way == "served names":
        more = ["--exclude-checks", "positive_data_acceptance"]
        environ |= {"SCHEMATHESIS_HOOKS": str(HOOKS)}
    settings = shop.settings(limits={"requests_per_minute": 1e6, "burst": 100_000})
    with serving(Server(settings, base=load_base(str(shop.base.folder))), secrets) as url:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
                *("--checks", "all", "--max-examples", str(EXAMPLES), "--seed", "1"),
                *("--no-color", *more),
            ],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

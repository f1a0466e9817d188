"""The page in a real browser: it follows a ledger, runs no hostile text, works by keyboard.

Needs a Chromium of the machine.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from page_fakes import HOSTILE, many_runs
from playwright import sync_api as playwright

from fleet.page import create_app
from fleet.settings import RunPaths

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    many_runs(RunPaths(root=tmp_path / "live"), arms=("a", "b"), seeds=6)
    return tmp_path


@pytest.fixture
def address(runs: Path) -> Iterator[str]:
    app = create_app(runs, runs / "registry")
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


def test_it_follows_the_ledger_without_a_reload(browser: Any, address: str, runs: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{address}/runs/live/missions/F1")
    assert page.title() == "F1 · live · BEM Fleet"  # what the hostile title would have changed
    assert HOSTILE in page.locator("h1").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("text=live").first.wait_for()
    page.evaluate("window.mark = 1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    cell = page.locator("a[aria-label='a, seed 4: planned']")
    cell.focus()
    with sqlite3.connect(runs / "live" / "ledger.sqlite") as cx:
        cx.execute("UPDATE runs SET state = 'RUNNING' WHERE run = 'F1-a-s4'")
        cx.execute(
            "INSERT INTO moves (run, before, after, at, attempt, reason)"
            " VALUES ('F1-a-s4', 'LEASED', 'RUNNING', 1, NULL, '')"
        )
    cx.close()
    page.locator("a[aria-label='a, seed 4: running']").wait_for(timeout=15_000)
    assert page.evaluate("window.mark") == 1
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label == "a, seed 4: running"  # focus stayed where it was
    assert complaints == []
    page.close()

"""The page against real ledgers: every view, hostile texts, hosts and tokens, ETags, news, size."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi import FastAPI
from page_fakes import HOSTILE, many_runs
from registry_fakes import put
from starlette.testclient import TestClient
from test_report_facts import finished

from fleet.page import TrafficRow, create_app
from fleet.page.serve import token_for
from fleet.registry.promotion import Wish, promote_run
from fleet.registry.writer import Registry
from fleet.reporting.report import write
from fleet.settings import RunPaths

VIEWS = (
    "/",
    "/runs/one",
    "/runs/one/missions/F1",
    "/runs/one/runs/F1-treated-s1",
    "/runs/hostile",
    "/runs/hostile/missions/F1",
    "/runs/hostile/runs/F1-a-s0",
    "/registry",
    "/compare",
    "/compare?a=one&b=hostile",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two campaigns and a registry."""
    folder = tmp_path_factory.mktemp("fleet")
    paths, _ = finished(folder / "runs" / "one", effect=0.8)
    write(paths, wall_time_s=1.0)
    promote_run(paths, folder / "registry", Wish(catalog="fake_catalog"))
    many_runs(RunPaths(root=folder / "runs" / "hostile"), arms=("a", "b"), seeds=8)
    with Registry(folder / "registry") as registry:
        put(registry, "one", forced=HOSTILE)
    return folder


@pytest.fixture
def client(root: Path) -> Iterator[TestClient]:
    app = create_app(root / "runs", root / "registry")
    with TestClient(app, base_url="http://127.0.0.1:8270") as made:
        yield made


class Elements(HTMLParser):
    """Names of elements and attributes of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("href", "src", "action"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_whole_quiet_and_local(client: TestClient, view: str) -> None:
    answer = client.get(view)
    assert answer.status_code == 200
    page = Elements(answer.text)
    assert "img" not in page.elements
    assert not [name for name in page.attributes if name.startswith("on") or name == "style"]
    assert len(re.findall("<script", answer.text)) == 1  # ours, a file
    assert all(address.startswith(("/", "#")) for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert "h1" in page.elements
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    for address in set(page.addresses):
        if not address.startswith("#"):
            assert client.get(address).status_code == 200, address


def test_hostile_texts_are_shown_as_text(client: TestClient) -> None:
    for view in ("/runs/hostile", "/runs/hostile/missions/F1", "/registry"):
        page = Elements(client.get(view).text)
        assert HOSTILE in page.text
        assert not re.search(r">\s*49\s*<script>", page.text)  # no template ran
        assert "img" not in page.elements


def test_figures_of_a_finished_campaign(client: TestClient) -> None:
    campaign = Elements(client.get("/runs/one").text).text
    assert "9 of 9 runs" in campaign
    mission = client.get("/runs/one/missions/F1").text
    assert "Promote" in mission
    assert mission.count('class="cell done"') == 9
    text = " ".join(Elements(mission).text.split())
    for word in ("better", "primary", "PASS", "trainable params", "MDE", "margin", "yes, 5.00"):
        assert word in text
    run = " ".join(Elements(client.get("/runs/one/runs/F1-treated-s1").text).text.split())
    for word in ("adapter.json", "loss 0.3333", "running → done", "trainable params 1000"):
        assert word in run
    report = client.get("/runs/one/report")
    assert "sandbox" in report.headers["content-security-policy"]


def test_the_registry_shows_aliases_lineage_and_traffic(root: Path) -> None:
    rows = [TrafficRow(model="", share=None, requests=1, errors=0, tokens=5, p50_ms=1, p99_ms=2)]

    def traffic() -> list[TrafficRow]:
        return rows

    app = create_app(root / "runs", root / "registry", traffic=traffic)
    with TestClient(app, base_url="http://localhost") as client:
        page = Elements(client.get("/registry").text).text
        model = re.search(r"scratch:F1-treated@\w+", page)
        assert model is not None
        assert "champion" in page
        rows[0] = TrafficRow(
            model=model.group(), share=0.9, requests=1234, errors=2, tokens=99, p50_ms=4, p99_ms=9
        )
        assert "1,234" in Elements(client.get("/registry").text).text


def test_unknown_things_are_404_and_paths_lead_nowhere(client: TestClient) -> None:
    for address in (
        "/runs/none",
        "/runs/one/missions/Z",
        "/runs/one/runs/F1-treated-s99",
        "/runs/..%2f..%2fetc/missions/F1",
        "/runs/one/missions/..%2f..%2f..%2fetc%2fpasswd",
        "/runs/one/runs/..%2f..%2fledger.sqlite",
        "/static/..%2f..%2fapp.py",
        "/static/../app.py",
        "/compare?a=one&b=../../etc",
        "/runs/" + "x" * 200,
        "/events?of=none",
        "/docs",
        "/openapi.json",
    ):
        answer = client.get(address)
        assert answer.status_code == 404, address
        assert "Traceback" not in answer.text
    assert client.get("/?page=zero").status_code == 422
    assert client.post("/").status_code == 405


def test_a_name_that_was_rebound_sees_nothing(root: Path) -> None:
    app = create_app(root / "runs", root / "registry")
    client = TestClient(app, base_url="http://127.0.0.1")
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil:8270", "", "[::2]:1"):
        answer = client.get("/", headers={"host": host})
        assert answer.status_code == 421, host
        assert "campaign" not in answer.text
    for host in ("localhost:8270", "127.0.0.1", "[::1]:8270", "LOCALHOST"):
        assert client.get("/", headers={"host": host}).status_code == 200, host


def test_the_token(root: Path) -> None:
    app = create_app(root / "runs", root / "registry", hosts=("h",), token="a-token-of-the-test")
    client = TestClient(app, base_url="http://h", follow_redirects=False)
    assert client.get("/").status_code == 401
    assert client.get("/static/page.css").status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/", headers={"authorization": "Bearer wrong"}).status_code == 401
    bearer = {"authorization": "Bearer a-token-of-the-test"}
    assert client.get("/runs/one", headers=bearer).status_code == 200
    answer = client.get("/runs/one?token=a-token-of-the-test&page=2")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/one?page=2")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/").status_code == 200  # the client kept the cookie
    moved = client.get("//evil.example/?token=a-token-of-the-test", headers={"host": "h"})
    assert not moved.headers.get("location", "/").startswith("//")


def test_beyond_loopback_there_is_always_a_token() -> None:
    assert token_for("127.0.0.1", None) is None
    assert token_for("::1", None) is None
    assert len(token_for("0.0.0.0", None) or "") >= 32
    assert token_for("node7", "x" * 20) == "x" * 20
    with pytest.raises(Exception, match="at least 16"):
        token_for("node7", "short")


def test_an_unchanged_page_is_confirmed_and_a_changed_one_is_not(root: Path) -> None:
    app = create_app(root / "runs", root / "registry")
    client = TestClient(app, base_url="http://localhost")
    first = client.get("/runs/hostile")
    known = {"if-none-match": first.headers["etag"]}
    assert client.get("/runs/hostile", headers=known).status_code == 304
    with sqlite3.connect(root / "runs" / "hostile" / "ledger.sqlite") as cx:
        cx.execute(
            "INSERT INTO events (at, level, source, text) VALUES (1, 'alarm', 'x', 'new one')"
        )
    cx.close()
    again = client.get("/runs/hostile", headers=known)
    assert again.status_code == 200
    assert "new one" in again.text


def test_mounted_somewhere_its_links_stay_inside(root: Path) -> None:
    outer = FastAPI()
    outer.mount("/fleet", create_app(root / "runs", root / "registry"))
    client = TestClient(outer, base_url="http://localhost")
    page = Elements(client.get("/fleet/runs/one").text)
    assert all(a.startswith(("/fleet", "#")) for a in page.addresses)
    assert all(client.get(a).status_code == 200 for a in page.addresses if a.startswith("/"))


def test_ten_thousand_runs_stay_quick(tmp_path: Path) -> None:
    """Twenty arms x 500 seeds. CPU seconds: the wall clock belongs to whoever else works here."""
    arms = [f"arm{number}" for number in range(20)]
    many_runs(RunPaths(root=tmp_path / "big"), arms=arms, seeds=500, points=2)
    client = TestClient(create_app(tmp_path, tmp_path / "r"), base_url="http://localhost")
    client.get("/compare")
    for address in (
        "/",
        "/runs/big",
        "/runs/big/missions/F1",
        "/runs/big/missions/F1?page=13",
        "/runs/big/runs/F1-arm3-s7",
    ):
        started = time.process_time()
        answer = client.get(address)
        took = time.process_time() - started
        assert answer.status_code == 200
        assert took < 1.0, (address, took)
        assert len(answer.content) < 600_000, address
        known = {"if-none-match": answer.headers["etag"]}
        started = time.process_time()
        if address != "/":
            assert client.get(address, headers=known).status_code == 304
            assert time.process_time() - started < 0.1, address
    assert "13 of 13" in client.get("/runs/big/missions/F1?page=99").text

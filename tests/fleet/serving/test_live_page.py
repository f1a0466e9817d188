"""The page at /fleet beside the API: who sees it, what it is told; neither opens the other."""

from __future__ import annotations

import re

import httpx2
import pytest
from fake_shop import Shop
from starlette.testclient import TestClient

from fleet.serving.app import build_app
from fleet.serving.model_traffic import KEPT, MOST, ModelTraffic
from fleet.serving.server import Server
from fleet.serving.tokens import ADMIN_VARIABLE, TOKENS_VARIABLE, read_secrets
from fleet.serving.traffic import BASE, Table

CLIENT, BOSS = "client-token-0123456789", "admin-token-0123456789"
ADMIN = {"authorization": f"Bearer {BOSS}"}


def app(server: Server, *, client: str = "", admin: str = "") -> TestClient:
    """Not entered: the server of the session keeps its own event loop."""
    secrets = read_secrets(None, None, {TOKENS_VARIABLE: client, ADMIN_VARIABLE: admin})
    return TestClient(
        build_app(server, secrets), base_url="http://127.0.0.1:8000", follow_redirects=False
    )


def test_on_loopback_it_is_open_and_told_of_traffic(http: httpx2.Client, shop: Shop) -> None:
    moved = http.get("/fleet?page=2", follow_redirects=False)
    assert (moved.status_code, moved.headers["location"]) == (307, "/fleet/?page=2")
    front = http.get("/fleet/")
    assert front.status_code == 200
    assert "default-src 'none'" in front.headers["content-security-policy"]
    for address in re.findall(r'(?:href|src)="([^"#]*)"', front.text):
        assert address.startswith("/fleet/"), address
        assert http.get(address).status_code == 200, address

    def requests() -> int:
        card = http.get("/fleet/registry").text.partition(f"<h3>{shop.ids['plain']}")[2]
        return int(re.findall(r"<dt>requests</dt><dd>([\d,]+)", card)[0].replace(",", ""))

    before = requests()
    asked = {"model": "tiny:P", "prompt": "x", "max_tokens": 2}
    assert http.post("/v1/completions", json=asked).status_code == 200
    assert requests() == before + 1
    assert http.post("/v1/completions", json=asked | {"max_tokens": 9999}).status_code == 400
    assert requests() == before + 1


def test_another_name_for_loopback_is_refused(http: httpx2.Client) -> None:
    assert http.get("/fleet/", headers={"host": "evil.example"}).status_code == 421
    asked = http.get("/v1/models", headers={"host": "evil.example:8000"})
    assert (asked.status_code, asked.json()["error"]["code"]) == (421, "host_not_served")
    assert http.get("/v1/models", headers={"host": "localhost:8000"}).status_code == 200


def test_where_a_token_is_needed_the_api_has_any_name(server: Server, url: str) -> None:
    del url
    client = app(server, client=CLIENT)
    headers = {"host": "api.example", "authorization": f"Bearer {CLIENT}"}
    assert client.get("/v1/models", headers=headers).status_code == 200


def test_the_admin_s_token_opens_it_and_the_cookie_opens_nothing_else(
    server: Server, url: str
) -> None:
    del url  # it starts the server
    client = app(server, client=CLIENT, admin=BOSS)
    for headers in ({}, {"authorization": f"Bearer {CLIENT}"}, {"authorization": "Bearer "}):
        assert client.get("/fleet/", headers=headers).status_code == 401
        assert client.get("/fleet/events", headers=headers).status_code == 401
    assert client.get("/fleet/", headers=ADMIN).status_code == 200
    for path in ("/fleet/v1/models", "/fleet/admin/state", "/fleet/metrics", "/fleet//v1/models"):
        assert client.get(path, headers=ADMIN).status_code == 404, path
    opened = client.get(f"/fleet/registry?token={BOSS}")
    assert (opened.status_code, opened.headers["location"]) == (303, "/fleet/registry")
    cookie = opened.headers["set-cookie"]
    assert BOSS not in cookie
    assert "path=/fleet" in cookie.lower()
    assert client.get("/fleet/registry").status_code == 200
    key = re.findall(r"=([0-9a-f]{64})", cookie)[0]
    for headers in ({}, {"authorization": f"Bearer {key}"}, {"cookie": cookie.partition(";")[0]}):
        assert client.get("/admin/state", headers=headers).status_code == 401
        assert client.get("/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("client", "admin", "without", "boss"),
    [("", "", 200, 200), ("", BOSS, 401, 200), (CLIENT, "", 401, 401)],
)
def test_who_sees_it(
    server: Server, url: str, client: str, admin: str, without: int, boss: int
) -> None:
    """Clients' tokens without an admin's: there is no page, and the API's guard answers."""
    del url
    made = app(server, client=client, admin=admin)
    assert made.get("/fleet/").status_code == without
    assert made.get("/fleet/", headers=ADMIN).status_code == boss
    if client:
        asked = made.get("/fleet/", headers={"authorization": f"Bearer {CLIENT}"})
        assert asked.status_code == 404


def test_rows() -> None:
    traffic = ModelTraffic()
    table = Table(
        lines={"l": {"champion": "a", "canary": "b"}, "m": {"champion": "c"}},
        ids={"a": "l", "b": "l", "c": "m"},
        canary_share=0.25,
    )
    for number in range(KEPT + 100):
        traffic.add("a", "answered", tokens=2, seconds=number / 1000)
    traffic.add("a", "failed", tokens=1, seconds=99.0)
    traffic.add(BASE, "left", tokens=0, seconds=99.0)
    rows = {row.model: row for row in traffic.rows(table)}
    assert set(rows) == {"a", "b", "c", BASE}
    assert [rows[name].share for name in ("a", "b", "c", BASE)] == [0.75, 0.25, None, None]
    a = rows["a"]
    assert (a.requests, a.errors, a.tokens) == (KEPT + 101, 1, 2 * (KEPT + 100) + 1)
    # The latest 1,024 durations are 100 to 1,123 ms.
    assert a.p50_ms == pytest.approx(611.5)
    assert a.p99_ms == pytest.approx(100 + 0.99 * (KEPT - 1))
    assert (rows[BASE].requests, rows[BASE].errors, rows[BASE].p50_ms) == (1, 0, None)
    for number in range(MOST):
        traffic.add(f"x{number}", "answered", tokens=1, seconds=1.0)
    assert len(traffic.rows(Table())) == MOST

"""Who is let in, how often, how much, how slowly."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from fake_shop import Shop

from bem import load_base
from fleet.errors import ConfigError
from fleet.serving.guard import depth
from fleet.serving.local import serving
from fleet.serving.rates import Buckets
from fleet.serving.server import Server
from fleet.serving.settings import read_settings
from fleet.serving.tokens import ADMIN_VARIABLE, TOKENS_VARIABLE, Secrets, read_secrets
from fleet.serving.traffic import Table, place

CLIENT, OTHER, BOSS = "client-token-0123456789", "other-token-0123456789", "admin-token-0123456789"


@pytest.fixture(scope="module")
def guarded(shop: Shop) -> Iterator[str]:
    settings = shop.settings(
        limits={"requests_per_minute": 30, "burst": 6, "body_bytes": 20_000, "body_s": 0.5}
    )
    environ = {TOKENS_VARIABLE: f"{CLIENT},{OTHER}", ADMIN_VARIABLE: BOSS}
    secrets = read_secrets(None, None, environ)
    assert CLIENT not in repr(secrets)
    with serving(Server(settings, base=load_base(shop.base.folder)), secrets) as url:
        yield url


def get(url: str, path: str, token: str | None) -> httpx2.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx2.get(url + path, headers=headers)


def test_tokens(guarded: str, caplog: pytest.LogCaptureFixture) -> None:
    assert get(guarded, "/healthz", None).status_code == 200
    for token in (None, "x", "wrong-token-0123456789"):
        answer = get(guarded, "/v1/models", token)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert get(guarded, "/metrics", None).status_code == 401
    assert get(guarded, "/v1/models", OTHER).status_code == 200
    assert get(guarded, "/v1/models", BOSS).status_code == 200
    assert get(guarded, "/admin/state", OTHER).status_code == 403
    assert get(guarded, "/admin/state", None).status_code == 401
    state = get(guarded, "/admin/state", BOSS).json()
    assert len(state["models"]) == 5
    assert state["skipped"] == {}
    assert "token-0123456789" not in caplog.text


def test_a_bucket_a_client(guarded: str) -> None:
    late = first = get(guarded, "/v1/models", CLIENT)
    for _ in range(60):  # a busy machine asks slowly, and the bucket fills meanwhile
        late = get(guarded, "/v1/models", CLIENT)
        if late.status_code != 200:
            break
    assert first.status_code == 200
    assert late.status_code == 429
    assert late.headers["retry-after"] in ("1", "2")
    assert late.json()["error"]["code"] == "rate_limit_exceeded"
    assert get(guarded, "/v1/models", OTHER).status_code in (200, 429)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"model": "base", "prompt": "' + b"x" * 30_000 + b'"}', "application/json", 413),
        (b"[" * 10_000 + b"]" * 10_000, "application/json", 400),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "application/json", 400),
        (b'{"model": "base", "prompt": "[[[[' + b"[" * 99 + b'"}', "application/json", 200),
        (b"{", "application/json", 400),
        (b'"\xff\xfe"', "application/json", 400),
        ('{"model": "base", "prompt": "x"}'.encode("utf-16"), "application/json", 400),
        ('{"model": "base", "prompt": "x"}'.encode("utf-16-le"), "application/json", 400),
        ('{"model": "base", "prompt": "x"}'.encode("utf-32-be"), "application/json", 400),
        ('{"model": "base", "prompt": "x"}'.encode("utf-8-sig"), "application/json", 400),
        (b'{"model": "base", "prompt": "x", "temperature": NaN}', "application/json", 400),
        (b"model=base", "application/x-www-form-urlencoded", 415),
    ],
)
def test_bodies(guarded: str, content: bytes, kind: str, status: int) -> None:
    answer = httpx2.post(
        f"{guarded}/v1/completions",
        content=content,
        headers={"Content-Type": kind, "Authorization": f"Bearer {BOSS}"},
    )
    while answer.status_code == 429:
        time.sleep(1)
        answer = httpx2.post(answer.url, content=content, headers=dict(answer.request.headers))
    assert answer.status_code == status, answer.text


def test_a_slow_client_is_told_and_others_go_on(guarded: str) -> None:
    where = urlsplit(guarded)
    with socket.create_connection((where.hostname, where.port), timeout=10) as slow:
        slow.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer " + OTHER.encode() + b"\r\nContent-Length: 100\r\n\r\n{"
        )
        assert get(guarded, "/healthz", None).status_code == 200
        answer = slow.recv(4096)
    assert b" 408 " in answer.split(b"\r\n")[0]


def test_depth() -> None:
    assert not depth(b'{"a": [1, "[[[[[["]}', 2)
    assert depth(b'{"a": [[1]]}', 2)
    assert not depth(b'"\\"[[[[[[[["', 3)


def test_buckets_fill_again_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    buckets = Buckets(per_minute=60, burst=2, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(3)] == [0.0, 0.0, 1.0]
    assert buckets.take("b") == 0.0
    now[0] = 1.0
    assert buckets.take("a") == 0.0
    monkeypatch.setattr("fleet.serving.rates.MAX_CLIENTS", 2)
    for name in "cdef":
        buckets.take(name)
    assert len(buckets._full) == 2


def test_tokens_come_from_files_of_mode_600(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# ours\n{CLIENT}  # laptop\n\n{OTHER}\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read it"):
        read_secrets(path, None, {})
    path.chmod(0o600)
    secrets = read_secrets(path, None, {})
    assert [secrets.right(token) for token in (CLIENT, OTHER, "x", None)] == [
        "client",
        "client",
        "nobody",
        "nobody",
    ]
    path.write_text("short\n")
    with pytest.raises(ConfigError, match="5 characters; give at least 16"):
        read_secrets(path, None, {})
    with pytest.raises(ConfigError, match="also a client's"):
        read_secrets(None, None, {TOKENS_VARIABLE: BOSS, ADMIN_VARIABLE: BOSS})
    assert Secrets().right(None) == "client"


def test_settings_name_file_and_field(tmp_path: Path) -> None:
    path = tmp_path / "serving.yaml"
    path.write_text("engine:\n  rowz: 3\n")
    with pytest.raises(ConfigError, match=r"serving.yaml: field 'engine.rowz'"):
        read_settings(path, {})
    path.write_text("engine:\nray:\n")
    with pytest.raises(ConfigError, match=r"serving.yaml: field 'ray': expected fields, got noth"):
        read_settings(path, {"ray.replicas": 2})
    with pytest.raises(ConfigError, match=r"serving.yaml: field 'engine'"):
        read_settings(path, {})
    path.write_text("engine:\n  rows: 3\n")
    made = read_settings(path, {"engine.queue": 5, "host": "0.0.0.0"})
    assert (made.engine.rows, made.engine.queue, made.loopback) == (3, 5, False)
    assert read_settings(None, {"host": "::1"}).loopback


def test_the_canary_s_share_is_that_of_keys_and_moves_nobody_back() -> None:
    lines = {"base:A": {"champion": "one", "canary": "two"}}
    ids = {"one": "base:A", "two": "base:A"}

    def canaries(share: float) -> set[str]:
        table = Table(lines=lines, ids=ids, canary_share=share)
        keys = [f"user-{i}" for i in range(4000)]
        found = {key: table.resolve("A", key) for key in keys}
        return {key for key, model in found.items() if model is not None and model.model == "two"}

    small, large = canaries(0.05), canaries(0.2)
    assert len(small) == pytest.approx(200, abs=45)
    assert len(large) == pytest.approx(800, abs=80)
    assert small < large
    assert canaries(0.0) == set()
    assert len(canaries(1.0)) == 4000
    table = Table(lines=lines, ids=ids, canary_share=1.0)
    assert table.resolve("base:A@champion", "k").model == "one"
    assert table.resolve("base:A@previous", "k") is None
    assert table.resolve("one", "k").role == "id"
    assert 0 <= place("base:A", "k") < 1

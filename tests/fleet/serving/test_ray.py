"""Ray Serve for real, once: HTTP on loopback only, the client, a live swap, a killed replica."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest
from fake_shop import REFERENCE, Shop, stock
from serve_process import START_S, cannot_run, family, serve_process

from bem import load_base
from fleet.registry.reader import RegistryReader
from fleet.registry.writer import Registry
from fleet.serving import trial

WHY = cannot_run()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(WHY), reason=WHY),
]


@pytest.fixture(scope="module")
def store(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return stock(load_base(base_folder), tmp_path_factory.mktemp("ray") / "registry", "plain")


@pytest.fixture(scope="module")
def running(store: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    with serve_process(store, tmp_path_factory.mktemp("cwd")) as server:
        began_s = time.monotonic()
        while "serving at" not in server.said:
            if server.process.poll() is not None or time.monotonic() - began_s > START_S:
                pytest.fail(server.said)
            time.sleep(0.2)
        yield server.process.pid, server.url
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(90) == 0, server.said


def is_replica(process: psutil.Process) -> bool:
    try:
        return "ServeReplica" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def test_http_and_haproxy_listen_on_loopback_only(running: tuple[int, str]) -> None:
    pid, url = running
    assert httpx2.get(f"{url}/readyz").json()["ok"]
    assert "BEM Fleet" in httpx2.get(f"{url}/fleet/").text
    listening = {
        connection.laddr
        for process in family(pid)
        if process.name() == "haproxy"
        for connection in process.net_connections("tcp")
        if connection.status == "LISTEN"
    }
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert int(url.rsplit(":", 1)[1]) in {address.port for address in listening}


def test_the_client_and_a_swap(running: tuple[int, str], store: Shop) -> None:
    _, url = running
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    asked: dict[str, Any] = {"model": "tiny:P", "prompt": "swap", "max_tokens": 8}
    first = client.completions.create(**asked)
    assert first.model == store.ids["plain"]
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == first.choices[0].text
    with pytest.raises(openai.NotFoundError, match="is not served"):
        client.completions.create(**asked | {"model": "none"})
    write = trial.adapter(store.base, 9, size=0.2, kind="lora", rank=2)
    other = trial.register(
        store.registry, "adapter", "P", write, base=store.base, reference=REFERENCE, target="none"
    )
    with RegistryReader(store.registry) as reader:
        row = reader.resolve(other)
    with Registry(store.registry) as registry:
        registry.set_alias(row, "champion", actor="test")
    for _ in range(200):
        answer = client.completions.create(**asked)
        if answer.model == other:
            break
        assert answer.choices[0].text == first.choices[0].text
        time.sleep(0.05)
    else:
        pytest.fail("the new champion was not taken up")


def test_a_killed_replica_comes_back(running: tuple[int, str]) -> None:
    pid, url = running
    victims = [process for process in family(pid) if is_replica(process)]
    assert len(victims) == 1
    os.kill(victims[0].pid, signal.SIGKILL)
    began = time.monotonic()
    body = {"model": "tiny:P", "prompt": "x", "max_tokens": 2}
    while time.monotonic() - began < 90:
        try:
            if httpx2.post(f"{url}/v1/completions", json=body, timeout=5).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.2)
    pytest.fail("no answer within 90 s")

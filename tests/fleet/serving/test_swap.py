"""What is served changes under load: no request fails and no answer mixes two versions."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fake_shop import REFERENCE, Shop, stock

from bem import BaseModel, BEMModel, load_base
from fleet.registry.reader import RegistryReader
from fleet.registry.records import MODEL
from fleet.registry.writer import Registry
from fleet.serving import trial
from fleet.serving.local import serving
from fleet.serving.server import Server

CLIENTS = 4


@pytest.fixture
def shelf(base: BaseModel, tmp_path: Path) -> Iterator[tuple[Shop, Server, str]]:
    shop = stock(base, tmp_path / "registry", "plain")
    server = Server(shop.settings(canary_share=0.3), base=load_base(base.folder))
    with serving(server) as url:
        yield shop, server, url


def second(shop: Shop, seed: int = 9) -> str:
    write = trial.adapter(shop.base, seed, size=0.2, kind="generated", rank=2)
    return trial.register(shop.registry, "adapter", "P", write, base=shop.base, reference=REFERENCE)


def expected(shop: Shop, model: str) -> str:
    with RegistryReader(shop.registry) as reader:
        folder = reader.folder(reader.resolve(model)) / MODEL
    with BEMModel.from_pretrained(folder, base=load_base(shop.base.folder)) as made:
        text = made.generate("swap", max_new_tokens=16)
    assert isinstance(text, str)
    return text


def wait_for(server: Server, version: int) -> None:
    for _ in range(400):
        if server.shelf.view.version >= version:
            return
        threading.Event().wait(0.02)
    raise AssertionError(server.watch_error or "the registry was not followed")


def test_swap_canary_and_rollback_under_load(shelf: tuple[Shop, Server, str]) -> None:
    shop, server, url = shelf
    first = shop.ids["plain"]
    stop = threading.Event()
    answers: list[tuple[str, str, str]] = []
    failures: list[str] = []

    def ask(number: int) -> None:
        with httpx2.Client(base_url=url, timeout=20) as client:
            at = 0
            while not stop.is_set():
                at += 1
                user = f"user-{number}-{at % 20}"
                body = {"model": "tiny:P", "prompt": "swap", "max_tokens": 16, "user": user}
                answer = client.post("/v1/completions", json=body)
                if answer.status_code != 200:
                    failures.append(answer.text)
                    return
                told = answer.json()
                answers.append((told["model"], told["choices"][0]["text"], told["bem"]["role"]))

    clients = [threading.Thread(target=ask, args=(i,)) for i in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        other = second(shop)  # a canary now
        wait_for(server, 2)
        for _ in range(400):  # a tenth of the keys meet it: how soon depends on the machine
            if any(role == "canary" for _, _, role in answers):
                break
            threading.Event().wait(0.02)
        with RegistryReader(shop.registry) as reader:
            row = reader.resolve(other)
        with Registry(shop.registry) as registry:
            registry.set_alias(row, "champion", actor="test")
        wait_for(server, 3)
        threading.Event().wait(0.3)
        with Registry(shop.registry) as registry:
            registry.rollback(row.line, reason="test", actor="test")
        wait_for(server, 4)
        threading.Event().wait(0.3)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert failures == []
    texts = {model: expected(shop, model) for model in (first, other)}
    assert texts[first] != texts[other]
    assert {(model, text) for model, text, _ in answers} == set(texts.items())
    roles = Counter((model, role) for model, _, role in answers)
    assert {(first, "champion"), (other, "canary"), (other, "champion")} <= roles.keys()
    assert answers[-1][0] == first
    for _ in range(100):  # the withdrawn model leaves the host once nobody needs it
        server.refresh(force=True)
        if len(server.host.adapters) == 1:
            break
        threading.Event().wait(0.02)
    assert len(server.host.adapters) == 1


def test_a_model_that_does_not_verify_is_named_and_the_others_served(
    base: BaseModel, tmp_path: Path
) -> None:
    shop = stock(base, tmp_path / "registry", "plain")
    # The test looks at the registry itself, so that the damage is done before.
    server = Server(shop.settings(poll_s=3600), base=load_base(base.folder))
    write = trial.adapter(shop.base, 3, size=0.2, kind="lora", rank=2)
    broken = trial.register(
        shop.registry, "adapter", "Q", write, base=shop.base, reference=REFERENCE, target="none"
    )
    with RegistryReader(shop.registry) as reader:
        row = reader.resolve(broken)
        weights = next((reader.folder(row) / MODEL).rglob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    with Registry(shop.registry) as registry:
        registry.set_alias(row, "champion", actor="test")
    good = weights.read_bytes()
    weights.write_bytes(data)
    with serving(server) as url:
        assert "sha256" in server.shelf.view.skipped[broken]
        for name in ("tiny:Q", broken):
            body = {"model": name, "prompt": "x", "max_tokens": 1}
            answer = httpx2.post(f"{url}/v1/completions", json=body)
            assert answer.status_code == 404
            said = answer.json()["error"]["message"]
            assert "could not be loaded" in said
            assert str(tmp_path) not in said
        body["model"] = "tiny:P"
        assert httpx2.post(f"{url}/v1/completions", json=body).status_code == 200
        weights.write_bytes(good)
        assert not server.refresh()  # its time has not come
        server.shelf._retry_at_s = 0.0
        assert server.refresh()
        body["model"] = "tiny:Q"
        assert httpx2.post(f"{url}/v1/completions", json=body).status_code == 200


def test_a_model_over_another_base_is_not_served(base: BaseModel, tmp_path: Path) -> None:
    from bem.testing import write_tiny_base

    shop = stock(base, tmp_path / "registry", "plain")
    other = load_base(write_tiny_base(tmp_path / "other", seed=5))
    server = Server(shop.settings(), base=other)
    try:
        server.loop.start()
        server.refresh()
        assert server.shelf.view.models == {}
        assert "lies over base 'tiny'" in server.shelf.view.skipped[shop.ids["plain"]]
    finally:
        server.stop()

"""A registry with a living model over the bundled base: it has learned a few answers by heart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import torch
from pydantic import JsonValue

from bem import BaseModel
from bem.model import BEMConfig, BEMModel, LabelledExample
from bem.online import CanaryConfig, LearnerConfig
from fleet.registry.reader import RegistryReader
from fleet.registry.writer import Registry
from fleet.serving import trial
from fleet.serving.server import Server
from fleet.serving.settings import ServingSettings
from missions.living_model.online import CANARY, INITIAL, ONLINE, SETTINGS, OnlineSettings

LINE = "tiny:B"
KNOWN = {"swap: a": "b", "swap: c": "d", "swap: e": "f", "swap: g": "h"}
CHANGED = {"send: i": "(j)", "send: k": "(l)"}
"""A format that the start has never seen: taught by feedback."""
EVERY, BATCH = 8, 2


@dataclass(kw_only=True)
class LivingShop:
    """The registry and its settings."""

    base_folder: Path
    registry: Path
    model: str
    fields: dict[str, Any] = field(default_factory=dict)

    def settings(self, **fields: Any) -> ServingSettings:
        return ServingSettings.model_validate(
            {"registry": self.registry, "base": str(self.base_folder), "port": 0, "poll_s": 0.05}
            | self.fields
            | fields
        )

    def aliases(self) -> dict[str, str]:
        with RegistryReader(self.registry) as reader:
            return {str(row.alias): row.model for row in reader.aliases(LINE)}

    def decisions(self, kind: str) -> list[dict[str, Any]]:
        with RegistryReader(self.registry) as reader:
            return [link.body for link in reader.decisions() if link.kind == kind]

    def writer(self) -> Registry:
        return Registry(self.registry)


def stock(
    base: BaseModel, base_folder: Path, registry: Path, *, kl_cap: float = 50.0
) -> LivingShop:
    """Trains for a second and registers."""
    model = trial.register(
        registry, "adapter", "B", _living(base, kl_cap), base=base, reference="tiny"
    )
    return LivingShop(base_folder=base_folder, registry=registry, model=model)


def _living(base: BaseModel, kl_cap: float) -> trial.Write:
    def write(folder: Path) -> Mapping[str, JsonValue]:
        config = BEMConfig(base="tiny", adapters={"living": {"kind": "lora", "rank": 8}})
        examples = [
            LabelledExample(prompt=prompt, target=target) for prompt, target in KNOWN.items()
        ]
        with BEMModel(config, base=base) as model:
            model.fit(
                examples,
                steps=120,
                lr=0.01,
                batch_size=4,
                generator=torch.Generator().manual_seed(0),
            )
            assert all(model.exact_match(examples))
            model.save_pretrained(folder)
        settings = OnlineSettings(
            update="all",
            learner=LearnerConfig(lr=0.003, batch_size=8, replay_ratio=0.6, window=8),
            canary=CanaryConfig(every=EVERY, kl_cap=kl_cap, rollback_ratio=0.6),
            prompts_per_update=BATCH,
            seed=3,
        )
        (folder / ONLINE).mkdir()
        (folder / ONLINE / SETTINGS).write_text(settings.model_dump_json(), encoding="utf-8")
        items = json.dumps([{"id": p, "prompt": p, "target": t} for p, t in KNOWN.items()])
        for name in (INITIAL, CANARY):
            (folder / ONLINE / name).write_text(items, encoding="utf-8")
        return {"online": True}

    return write


def teach(
    http: httpx2.Client, answers: Mapping[str, str], count: int, model: str = LINE
) -> list[httpx2.Response]:
    """`count` feedback, in turn over these answers."""
    pairs = list(answers.items())
    return [
        http.post(
            "/v1/feedback",
            json=dict(
                zip(("prompt", "completion"), pairs[at % len(pairs)], strict=True), model=model
            ),
        )
        for at in range(count)
    ]


def settled(server: Server, learned: int) -> dict[str, Any]:
    """The learner's status once it has learned from so much and finished the step."""

    def done() -> bool:
        state = status(server)
        return state["counts"]["learned"] >= learned and state["feedback_since_canary"] == 0

    wait_for(done, lambda: str(status(server)))
    return status(server)


def status(server: Server) -> dict[str, Any]:
    """Of the line's learner."""
    found: dict[str, Any] = server.desk.status()["learners"][LINE]
    return found


def wait_for(done: Callable[[], bool], told: Callable[[], str] = str, limit_s: float = 20) -> None:
    """Until it is so."""
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, told()
        time.sleep(0.01)


def answer(http: httpx2.Client, model: str, prompts: Sequence[str]) -> list[str]:
    """Greedy answers."""
    body = {"model": model, "max_tokens": 6}
    return [
        http.post("/v1/completions", json=body | {"prompt": prompt}).json()["choices"][0]["text"]
        for prompt in prompts
    ]

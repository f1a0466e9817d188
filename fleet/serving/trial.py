"""Registered models that have learnt nothing, made in a second: for tests, benchmarks and a first
look at a server. Every kind there is; weights are drawn from a Generator. Knows no server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue
from safetensors.torch import save as save_tensors

from bem.base import BaseModel as FrozenBase
from bem.memory import MemoryLM, MemoryLMConfig
from bem.memory.checkpoint import save_model
from bem.memory.delta.config import DeltaConfig
from bem.model import BEMConfig, BEMModel
from bem.planner import MacroPolicy, PlanSpace
from bem.retrieval import HashedEncoder
from bem.safety import ValueHead
from fleet.registry.folders import measure, staged
from fleet.registry.records import (
    MODEL,
    BaseReference,
    Kind,
    Lineage,
    Manifest,
    SeedChoice,
    line_of,
    model_digest,
    model_id,
)
from fleet.registry.writer import Registry, Target
from missions.agentic_planner import contest
from missions.agentic_planner.chains import SKILLS
from missions.agentic_planner.records import index_texts, sample_entities
from missions.agentic_planner.served import RETRIEVAL, RetrievalSettings
from missions.agentic_planner.skills import SKILL_ADAPTERS
from missions.alignment_enforcer.artifact import ARM, HEAD, ArmRecord

Write = Callable[[Path], Mapping[str, JsonValue]]
"""Fills model/ and returns the serving facts."""


def register(
    registry_dir: Path,
    kind: Kind,
    mission: str,
    write: Write,
    *,
    base: FrozenBase | None,
    reference: str = "bundled",
    target: Target = "auto",
) -> str:
    """Registers what `write` writes, as a trial; returns its id."""
    with Registry(registry_dir) as registry, staged(registry.paths) as folder:
        serving = dict(write(folder / MODEL))
        files = measure(folder)
        over = None if base is None else BaseReference(ref=reference, digest=base.digest)
        digest = model_digest(line_of(over, mission), "trial", kind, over, serving, files)
        manifest = Manifest(
            id=model_id(over, mission, "trial", digest),
            kind=kind,
            mission=mission,
            arm="trial",
            base_model=over,
            serving=serving,
            files=files,
            lineage=Lineage(
                run_id="trial",
                profile="trial",
                mission_hash="",
                arm_hash="",
                code_version="",
                commit="",
                dirty=True,
                data_digest="",
                scores_digest="",
                seeds=(0,),
                choice=SeedChoice(rule="a trial", figure="", values={}, seed=0),
                verdict="INCONCLUSIVE",
                reasons=(),
                verdict_link="",
                figures=(),
                parents=(),
                forced="a trial: it has learnt nothing",
            ),
            versions={},
            created="1970-01-01T00:00:00+00:00",
        )
        return registry.register(folder, manifest, target=target, actor="trial")[0]


def adapter(
    base: FrozenBase, seed: int, *, reference: str = "bundled", size: float = 0.05, **fields: Any
) -> Write:
    """One adapter of random weights; `fields` as in `BEMConfig.adapters`, and hints, modes."""
    named = {key: fields.pop(key) for key in ("hints", "modes") if key in fields}

    def write(folder: Path) -> Mapping[str, JsonValue]:
        config = BEMConfig(
            base=reference, adapters={"skill": fields or {"kind": "lora", "rank": 8}}, **named
        )
        with BEMModel(config, base=base) as model:
            _shake(model, seed, size)
            model.save_pretrained(folder)
        return {}

    return write


def overlay(
    base: FrozenBase,
    seed: int,
    *,
    knob: float = 0.5,
    reference: str = "bundled",
    size: float = 0.05,
) -> Write:
    """A skill, a branch over it and its value head, as mission C exports them."""

    def write(folder: Path) -> Mapping[str, JsonValue]:
        adapters: dict[str, Any] = {
            "skill": {"kind": "lora", "rank": 4},
            "safety": {"kind": "lora", "rank": 4},
        }
        config = BEMConfig(base=reference, adapters=adapters, active=("skill",))
        with BEMModel(config, base=base) as model:
            _shake(model, seed, size)
            model.save_pretrained(folder)
        draw = torch.Generator().manual_seed(seed)
        head = ValueHead(base.hidden_size, generator=draw)
        with torch.no_grad():
            head.head_1X.normal_(generator=draw)
        tensors = {k: t.contiguous() for k, t in head.state_dict().items()}
        (folder / HEAD).write_bytes(save_tensors(tensors))
        record = ArmRecord(
            method="branch",
            knob=knob,
            threshold=0.0,
            dev_loss=0.0,
            head_width=0,
            has_adapter=True,
            skill_sha256="",
        )
        (folder / ARM).write_text(record.model_dump_json(), encoding="utf-8")
        return {"knob": knob, "skill": "skill", "safety": "safety"}

    return write


def planner(base: FrozenBase, seed: int, *, reference: str = "bundled") -> Write:
    """Three skills, a policy and an index, as mission A exports them."""

    def write(folder: Path) -> Mapping[str, JsonValue]:
        fields: dict[str, Any] = {"kind": "generated", "rank": 4, "pool": "mean"}
        config = BEMConfig(
            base=reference, adapters=dict.fromkeys(SKILL_ADAPTERS, fields), active=()
        )
        with BEMModel(config, base=base) as model:
            _shake(model, seed, 0.02)
            model.save_pretrained(folder)
        draw = torch.Generator().manual_seed(seed)
        policy = MacroPolicy(
            PlanSpace(SKILLS, 3), feature_size=3 * base.hidden_size, width=8, generator=draw
        )
        with torch.no_grad():
            policy.out_AH.normal_(generator=draw)
        contest.save_policy(policy, folder)
        choice = contest.Choice(
            rule="planner", plan="", budget={"R": 12, "E": 8, "F": 12}, horizon=3
        )
        (folder / contest.CHOICE).write_text(choice.model_dump_json(), encoding="utf-8")
        rng = np.random.default_rng(seed)
        entities = sample_entities(rng, "dev", 40, 0.2)
        texts = [text for entity in entities for text in index_texts(entity)]
        (folder / RETRIEVAL).mkdir()
        (folder / RETRIEVAL / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        settings = RetrievalSettings(encoder=HashedEncoder(256).settings, top_k=3)
        (folder / RETRIEVAL / "settings.json").write_text(
            settings.model_dump_json(), encoding="utf-8"
        )
        return {"rule": "planner", "adapters": list(SKILL_ADAPTERS)}

    return write


def memory(seed: int) -> Write:
    """A small memory model, as mission E exports it."""

    def write(folder: Path) -> Mapping[str, JsonValue]:
        config = MemoryLMConfig(vocab=64, width=32, chunk=16, store=DeltaConfig(write_cap=4))
        save_model(MemoryLM(config, generator=torch.Generator().manual_seed(seed)), folder)
        return {"tokens": "ids"}

    return write


def _shake(model: BEMModel, seed: int, size: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.host.adapters.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))

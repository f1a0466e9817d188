"""A contestant as a model to serve: adapters, policy, way to answer, what it retrieves from.

    config.json, adapters/, ...   `BEMModel.save_pretrained`; no adapter acts until a plan names it
    policy.safetensors            the macro-policy, where the arm has one
    choice.json                   rule, the one plan of a fixed planner, token budgets, horizon
    retrieval/texts.json          what the index holds
    retrieval/settings.json       encoder and how many records a retrieval brings

The index is the one of the dev split: no text of the test split leaves the mission. FAISS has a
file format of its own, so the index is built again from texts and encoder: the same vectors.
It knows no server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from bem.checkpoint import write_durably
from bem.retrieval import HashedEncoder, MicroIndex, Retriever
from missions.agentic_planner import contest
from missions.agentic_planner.params import Params
from missions.export import copy_file, write_adapters
from missions.protocol import Context
from missions.spec import MissionSpec

RETRIEVAL = "retrieval"
_TEXTS, _SETTINGS = "texts.json", "settings.json"


class RetrievalSettings(BaseModel):
    """settings.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: dict[str, Any]
    """Settings of a `HashedEncoder`."""
    top_k: int


def write_served(
    spec: MissionSpec,
    artifact: Path,
    folder: Path,
    ctx: Context,
    *,
    rule: str,
    adapters: Sequence[str],
) -> None:
    """Writes everything above."""
    sources = {name: artifact / name for name in adapters}
    write_adapters(ctx.base(), spec.base_model, sources, folder, active=())
    names = (contest.POLICY, contest.CHOICE) if rule in ("planner", "shared") else (contest.CHOICE,)
    for name in names:
        copy_file(artifact / name, folder / name)
    index = MicroIndex.load(ctx.data_dir / "dev" / "index")
    params = Params.model_validate(spec.params)
    settings = RetrievalSettings(encoder=index.encoder.settings, top_k=params.data.top_k)
    (folder / RETRIEVAL).mkdir()
    write_durably(folder / RETRIEVAL / _TEXTS, (json.dumps(index.texts) + "\n").encode())
    text = settings.model_dump_json(indent=1) + "\n"
    write_durably(folder / RETRIEVAL / _SETTINGS, text.encode())


def read_retriever(folder: Path) -> Retriever:
    """The retriever of a served model, its index built again."""
    settings = RetrievalSettings.model_validate_json((folder / RETRIEVAL / _SETTINGS).read_bytes())
    texts: list[str] = json.loads((folder / RETRIEVAL / _TEXTS).read_bytes())
    encoder = HashedEncoder.restore(settings.encoder, {}, None)
    return Retriever(MicroIndex(texts, encoder), settings.top_k)

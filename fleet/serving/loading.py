"""A registered model into memory, aside: verified, built, not yet on any host.

Whatever its kind, a loaded model says which adapters it puts on the host (under names of its own,
so that two versions stand side by side), and what a server needs to answer with it. Only
safetensors and JSON are read. Knows no engine and no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors

from bem.base import BaseModel as FrozenBase
from bem.checkpoint import built_adapter, read_manifest
from bem.interfaces import Adapter
from bem.memory import MemoryLM
from bem.memory.checkpoint import load_model
from bem.model.hints import HintTable
from bem.model.saving import read_folder, read_labels
from bem.safety import ValueHead
from fleet.registry.records import MODEL, Manifest
from fleet.serving.catalog import Entry
from missions.agentic_planner.answering import ServedPlanner, load_served
from missions.alignment_enforcer.artifact import ARM, HEAD, ArmRecord


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Overlay:
    """A safety branch: lies over whatever else acts."""

    adapter: str
    """Its name on the host."""
    head: ValueHead | None
    knob: float
    """The operating point that the mission chose."""
    everywhere: bool
    """It acts on the prompt too, as an ordinary adapter at strength `knob`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loaded:
    """One model, ready."""

    manifest: Manifest
    created_s: float
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    """By name on the host."""
    tables: Mapping[str, HintTable] = field(default_factory=dict)
    """Embeddings of hints and modes, by name on the host."""
    acting: tuple[str, ...] = ()
    """Those that act on an ordinary answer."""
    overlay: Overlay | None = None
    planner: ServedPlanner | None = None
    memory: MemoryLM | None = None

    @property
    def id(self) -> str:
        return self.manifest.id


def load_entry(entry: Entry, base: FrozenBase) -> Loaded:
    """Reads, verifies and builds one model.

    Raises:
        ValueError: it does not verify, or belongs to another base. (Errors of `bem` are such.)
    """
    manifest = entry.verified()
    folder = entry.folder / MODEL
    if manifest.base_model is not None and manifest.base_model.digest != base.digest:
        raise ValueError(
            f"{manifest.id} lies over base '{manifest.base_model.ref}', digest "
            f"{manifest.base_model.digest[:12]}; this server holds '{base.ref}', "
            f"{base.digest[:12]}."
        )
    if manifest.kind == "memory":
        return Loaded(
            manifest=manifest, created_s=entry.created_s, memory=load_model(folder).eval()
        )
    config, _ = read_folder(folder)
    named = {name: host_name(manifest, name) for name in config.adapters}
    adapters, tables = {}, {}
    for name, own in named.items():
        adapter = built_adapter(base, folder / "adapters" / name)
        adapters[own] = adapter.requires_grad_(False).to(base.device)
        table = read_labels(folder / "adapters" / name, read_manifest(folder / "adapters" / name))
        if table is not None:
            tables[own] = table.requires_grad_(False).to(base.device)
    active = config.adapters if config.active is None else config.active
    overlay, acting = None, tuple(named[name] for name in active)
    if manifest.kind == "overlay":
        overlay = _overlay(manifest, folder, named, base)
        acting = tuple(name for name in acting if name != overlay.adapter)
    return Loaded(
        manifest=manifest,
        created_s=entry.created_s,
        adapters=adapters,
        tables=tables,
        acting=acting,
        overlay=overlay,
        planner=load_served(folder, base, named) if manifest.kind == "planner" else None,
    )


def host_name(manifest: Manifest, adapter: str) -> str:
    """What an adapter of a model is called on the host."""
    return f"{manifest.digest[:16]}-{adapter}"


def _overlay(
    manifest: Manifest, folder: Path, named: Mapping[str, str], base: FrozenBase
) -> Overlay:
    record = ArmRecord.model_validate_json((folder / ARM).read_bytes())
    head = None
    if record.head_width is not None:
        head = ValueHead(
            base.hidden_size,
            width=record.head_width,
            generator=torch.Generator().manual_seed(0),  # overwritten below
        )
        head.load_state_dict(load_tensors((folder / HEAD).read_bytes()))
        head.requires_grad_(False).to(base.device)
    return Overlay(
        adapter=named[str(manifest.serving["safety"])],
        head=head if record.method == "branch" else None,
        knob=record.knob,
        everywhere=record.method == "overlay",
    )

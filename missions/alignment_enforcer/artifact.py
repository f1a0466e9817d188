"""An arm on disk: the skill's and the branch's adapter folders, the value head, and arm.json.

Only safetensors and JSON; `load` needs nothing but the folder and the base. Knows no training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel as PydanticModel
from pydantic import ConfigDict
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from bem.base import BaseModel
from bem.checkpoint import load_adapter, save_adapter, write_durably
from bem.injection import AdapterHost
from bem.merging import merged
from bem.safety import ValueHead
from missions.alignment_enforcer.arms import SAFETY, SKILL, ArmModel
from missions.alignment_enforcer.operating import OperatingPoint
from missions.alignment_enforcer.params import Method

HEAD, ARM = "head.safetensors", "arm.json"


class ArmRecord(PydanticModel):
    """arm.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method
    knob: float
    threshold: float
    dev_loss: float
    head_width: int | None
    """None: the arm has no value head."""
    has_adapter: bool
    skill_sha256: str
    """Which skill; arms of one seed share it."""


def save(model: ArmModel, point: OperatingPoint, folder: Path) -> ArmRecord:
    """Writes all that `load` needs; arm.json comes last."""
    skill = save_adapter(model.host, SKILL, folder / SKILL)
    has_adapter = SAFETY in model.host.adapters
    if has_adapter:
        save_adapter(model.host, SAFETY, folder / SAFETY, parents=(skill.sha256,))
    if model.head is not None:
        tensors = {k: v.detach().cpu().contiguous() for k, v in model.head.state_dict().items()}
        write_durably(folder / HEAD, save_tensors(tensors))
    record = ArmRecord(
        method=model.method,
        **asdict(point),
        head_width=None if model.head is None else model.head.width,
        has_adapter=has_adapter,
        skill_sha256=skill.sha256,
    )
    write_durably(folder / ARM, (record.model_dump_json(indent=2) + "\n").encode())
    return record


def read_record(folder: Path) -> ArmRecord:
    """arm.json of an artifact."""
    data: Any = json.loads((folder / ARM).read_text(encoding="utf-8"))
    return ArmRecord.model_validate(data)


@contextmanager
def loaded(folder: Path, base: BaseModel) -> Iterator[tuple[ArmModel, ArmRecord]]:
    """The arm on `base`, which gets its own modules back at the end."""
    record = read_record(folder)
    host = AdapterHost(base)
    try:
        load_adapter(host, SKILL, folder / SKILL)
        if record.has_adapter:
            load_adapter(host, SAFETY, folder / SAFETY)
        head = None
        if record.head_width is not None:
            head = ValueHead(
                base.hidden_size,
                width=record.head_width,
                generator=torch.Generator().manual_seed(0),  # overwritten below
            )
            head.load_state_dict(load_tensors((folder / HEAD).read_bytes()))
            head.to(base.device)
        host.freeze()
        with merged(host, SKILL):
            yield (
                ArmModel(host=host, method=record.method, head=head, threshold=record.threshold),
                record,
            )
    finally:
        host.detach()

"""Every mission says how its arms are served: what is written loads again and acts as trained.

Runs over the registry of missions, with the smoke profile and one seed, on a tiny base where that
does; nothing is scored.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bem import AdapterHost, RoutingContext, load_base
from bem.base import BaseModel
from bem.checkpoint import load_adapter
from bem.memory.checkpoint import load_model
from bem.model import BEMModel
from bem.testing import write_tiny_base
from fleet.registry.context import ExportContext
from fleet.registry.folders import measure
from fleet.registry.records import MODEL
from missions.agentic_planner.served import read_retriever
from missions.base_model import bundled_path
from missions.errors import NotServableError
from missions.local import LocalContext
from missions.protocol import Artifact, Pack, Run
from missions.registry import load_mission, mission_files, resolve

UNSERVED = {
    "A": {"random_plan", "oracle_plan"},
    "B": {"memory"},
    "C": {"classifier"},
}
"""Yardsticks; each refusal says why."""
WORD_TOKENS = {"D"}
"""Missions whose symbols are whole words: the tiny base's tokenizer has bytes only."""
SHORTER = {
    "D": (
        "params.training.steps=2",
        "params.training.curve_steps=[0,2]",
        "params.training.docs_per_step=2",
    ),
    "E": (
        "params.train.steps=2",
        "params.train.batch=2",
        "params.evaluation.lengths=[512,1024]",
    ),
}
"""What is written does not depend on how long was trained."""
KINDS = {"A": "planner", "B": "adapter", "C": "overlay", "D": "adapter", "E": "memory"}


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"), max_positions=1024)


@pytest.mark.parametrize("mission_id", list(mission_files()))
def test_exported_arms_act_as_trained(mission_id: str, tiny_base: Path, tmp_path: Path) -> None:
    mission = load_mission(mission_id)
    base_folder = bundled_path() if mission_id in WORD_TOKENS else tiny_base
    spec = resolve(mission_id, profile="smoke", overrides=SHORTER.get(mission_id, ())).model_copy(
        update={"base_model": str(base_folder), "base_floor": {}, "seeds": (0,)}
    )
    ctx = LocalContext(spec, tmp_path / "work", torch.device("cpu"))
    mission.prepare(spec, ctx)
    runs = tuple(Run(mission=mission_id, arm=arm, seed=0) for arm in spec.arms)
    trained = mission.train(spec, Pack(name="pack", runs=runs), ctx)
    primary = next(gate for gate in spec.gates if gate.primary).treatment
    refused: set[str] = set()
    reasons: list[str] = []
    for run in runs:
        assert mission.seed_figure in trained[run].figures or run.arm != primary
        folders = []
        for copy in ("one", "two"):
            folder = tmp_path / copy / run.arm / MODEL
            folder.mkdir(parents=True)
            try:
                made = mission.export(
                    spec, run, trained[run], folder, ExportContext(spec, tmp_path / "work")
                )
            except NotServableError as error:
                refused.add(run.arm)
                reasons.append(str(error))
                break
            folders.append(folder)
        if run.arm in refused:
            continue
        first, second = (measure(folder.parent) for folder in folders)
        assert first == second  # the same artifact is the same model
        assert {Path(name).suffix for name in first} <= {".safetensors", ".json"}
        if run.arm == primary:
            assert made.kind == KINDS[mission_id]
        if made.kind == "memory":
            same_memory(folders[0], trained[run])
            continue
        base = load_base(base_folder)
        assert made.base_digest == base.digest
        same_adapters(folders[0], trained[run], base)
        if made.kind == "planner":
            assert len(read_retriever(folders[0]).retrieve(["anna age"]).texts[0]) > 1
    assert all(f"Mission {mission_id}, arm '" in reason for reason in reasons)
    assert refused == UNSERVED.get(mission_id, set())


def same_memory(folder: Path, artifact: Artifact) -> None:
    served, kept = load_model(folder).state_dict(), load_model(artifact.path).state_dict()
    assert served.keys() == kept.keys()
    assert all(torch.equal(served[name], kept[name]) for name in kept)


def same_adapters(folder: Path, artifact: Artifact, base: BaseModel) -> None:
    """Each adapter, alone and at full strength, gives the logits of the artifact's."""
    ids_BT = torch.randint(3, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    with BEMModel.from_pretrained(folder, base=base) as model:
        names = tuple(model.config.adapters)
        served = {name: logits(model.host, name, ids_BT) for name in names}
    sources = {path.name: path for path in artifact.path.iterdir() if path.is_dir()}
    steps = sorted(path for name, path in sources.items() if name.startswith("step_"))
    for name in names:
        host = AdapterHost(base)
        try:
            load_adapter(host, name, sources.get(name, steps[-1] if steps else artifact.path))
            assert torch.equal(logits(host, name, ids_BT), served[name])
        finally:
            host.detach()


@torch.no_grad()
def logits(host: AdapterHost, name: str, ids_BT: Tensor) -> Tensor:
    mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    context = RoutingContext(adapters=(name,), prefix_mask_BT=mask_BT)
    found: Tensor = host(ids_BT, routing=context).logits
    return found

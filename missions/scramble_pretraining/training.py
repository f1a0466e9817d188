"""Trains one arm of mission D and keeps its adapter at every step of the learning curve.

Kept adapters wait in memory, and in the training's checkpoints, until the end. Every arm of a seed
starts from the same weights and draws the same clean documents in the same
order. Scores are not looked at here: the kept adapters are scored later, like any artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bem.adapters.generated.config import GeneratedConfig
from bem.base import BaseModel
from bem.checkpoint import save_adapter
from bem.data import IGNORED, Batch, Encoded, pad, pad_id_of
from bem.injection import AdapterHost
from bem.scramble import sample_bijections
from bem.state_tree import NumpyDraws, Stateful, TorchDraws
from bem.training import TrainResult, fit
from bem.training_checkpoint import StageCheckpoints
from missions.scramble_pretraining.corpus import Documents
from missions.scramble_pretraining.data import World
from missions.scramble_pretraining.objectives import Halves, Objective, Projector, step_loss
from missions.scramble_pretraining.params import ScrambleParams
from missions.seeding import numpy_generator, torch_generator

ADAPTER = "scramble"
LogFunction = Callable[[int, Mapping[str, float]], None]


def make_host(base: BaseModel, params: ScrambleParams, seed: int) -> AdapterHost:
    """The base with a fresh adapter; the same weights for every arm of a seed."""
    host = AdapterHost(base)
    config = GeneratedConfig(rank=params.training.adapter_rank, code="sequence")
    host.add(ADAPTER, config, generator=torch_generator(seed, "D", "init"))
    host.use(ADAPTER)
    return host


def document_batch(documents: Documents, facts: Sequence[Encoded], pad_id: int) -> Batch:
    """Documents and closed-book items in one right-padded batch, documents first."""
    labels_NT = torch.full_like(documents.ids_NT, IGNORED)
    labels_NT[:, documents.answers_Q] = documents.ids_NT[:, documents.answers_Q]
    count, width = documents.ids_NT.shape
    batch = Batch(
        input_ids_BT=documents.ids_NT,
        attention_mask_BT=torch.ones(count, width, dtype=torch.long),
        prefix_mask_BT=documents.prefix_T.expand(count, width),
        labels_BT=labels_NT,
        ids=("",) * count,
        clusters=("",) * count,
    )
    return batch if not facts else _stack(batch, pad(facts, pad_id=pad_id), pad_id)


def _stack(a: Batch, b: Batch, pad_id: int) -> Batch:
    width = max(a.input_ids_BT.shape[1], b.input_ids_BT.shape[1])

    def grow(tensor: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=value)

    def join(name: str, value: int) -> Tensor:
        return torch.cat([grow(getattr(a, name), value), grow(getattr(b, name), value)])

    return Batch(
        input_ids_BT=join("input_ids_BT", pad_id),
        attention_mask_BT=join("attention_mask_BT", 0),
        prefix_mask_BT=join("prefix_mask_BT", 0),
        labels_BT=join("labels_BT", IGNORED),
        ids=a.ids + b.ids,
        clusters=a.clusters + b.clusters,
    )


class StepSource:
    """The batches of one run: clean halves from the seed's stream, scrambled or clean partners."""

    def __init__(
        self, objective: Objective, base: BaseModel, params: ScrambleParams, world: World, seed: int
    ) -> None:
        self._objective = objective
        self._params = params
        self._world = world
        self._pad_id = pad_id_of(base.tokenizer)
        self._vocab_size = int(base.model.config.get_text_config().vocab_size)
        self._device = base.device
        self._clean = numpy_generator(seed, "D", "documents")
        self._partner = numpy_generator(seed, "D", "partners")
        self._bijections = torch_generator(seed, "D", "bijections")

    def draw(self) -> Halves:
        """The next step's batch."""
        first = self._half(self._clean)
        bijection = None
        if self._objective == "lm":
            second = self._half(self._partner)
        else:
            bijection = sample_bijections(
                self._world.symbols.groups,
                batch=first.input_ids_BT.shape[0],
                vocab_size=self._vocab_size,
                generator=self._bijections,
            )
            labels_BT = first.labels_BT
            image_BT = bijection.apply(labels_BT.clamp_min(0))
            second = Batch(
                input_ids_BT=bijection.apply(first.input_ids_BT),
                attention_mask_BT=first.attention_mask_BT,
                prefix_mask_BT=first.prefix_mask_BT,
                labels_BT=torch.where(labels_BT == IGNORED, labels_BT, image_BT),
                ids=first.ids,
                clusters=first.clusters,
            )
            bijection = bijection.to(self._device)
        both = _stack(first, second, self._pad_id)
        return Halves(batch=both.to(self._device), bijection=bijection)

    @property
    def carried(self) -> dict[str, Stateful]:
        """What moves on with every draw."""
        return {
            "documents": NumpyDraws(self._clean),
            "partners": NumpyDraws(self._partner),
            "bijections": TorchDraws(self._bijections),
        }

    def sample_documents(self, count: int = 256) -> Documents:
        """Further training documents, for the leak check."""
        rate = self._params.corpus.shortcut_rate
        return self._world.factory.draw(count, self._clean, shortcut_rate=rate)

    def _half(self, rng: np.random.Generator) -> Batch:
        training, corpus = self._params.training, self._params.corpus
        documents = self._world.factory.draw(
            training.docs_per_step, rng, shortcut_rate=corpus.shortcut_rate
        )
        chosen = rng.integers(len(self._world.rehearsed), size=training.facts_per_step)
        facts = [self._world.rehearsed[int(i)] for i in chosen]
        return document_batch(documents, facts, self._pad_id)


class Curve:
    """The adapter's weights at the steps of the learning curve."""

    def __init__(self, host: AdapterHost, steps: Sequence[int]) -> None:
        self._host = host
        self._steps = set(steps)
        self._kept: dict[int, dict[str, Tensor]] = {}

    def pass_by(self, step: int) -> None:
        """Keeps the weights as they are before this step, where the curve has it."""
        if step in self._steps:
            weights = self._host[ADAPTER].state_dict()
            self._kept[step] = {name: value.detach().clone() for name, value in weights.items()}

    def write(self, folder: Path) -> None:
        """Saves a `step_<n>` folder each; the adapter is left as it is."""
        adapter = self._host[ADAPTER]
        now = {name: value.detach().clone() for name, value in adapter.state_dict().items()}
        for step, weights in sorted(self._kept.items()):
            adapter.load_state_dict(weights)
            save_adapter(self._host, ADAPTER, folder / f"step_{step:05d}")
        adapter.load_state_dict(now)

    def state_dict(self) -> dict[str, Any]:
        return {str(step): weights for step, weights in self._kept.items()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._kept = {int(step): weights for step, weights in state_dict.items()}


def train_arm(
    objective: Objective,
    base: BaseModel,
    params: ScrambleParams,
    world: World,
    seed: int,
    folder: Path,
    *,
    log: LogFunction,
    should_stop: Callable[[], bool],
    checkpoints: StageCheckpoints | None = None,
) -> tuple[TrainResult, AdapterHost]:
    """Trains from the seed's start and saves `step_<n>` folders below `folder`."""
    host = make_host(base, params, seed)
    source = StepSource(objective, base, params, world, seed)
    projector = Projector(
        base.hidden_size, params.sep.projection, torch_generator(seed, "D", "projector")
    )
    settings = params.training
    curve = Curve(host, settings.curve_steps)

    def loss_of(step: int) -> Tensor:
        curve.pass_by(step)
        return step_loss(objective, host, source.draw(), weights=params.sep, projector=projector)

    result = fit(
        loss_of,
        host.parameter_groups(settings.lr, settings.controller_lr_scale),
        steps=settings.steps,
        bf16=base.device.type == "cuda",
        log=log,
        log_every=25,
        should_stop=should_stop,
        checkpoints=checkpoints,
        carried={**source.carried, "curve": curve},
    )
    curve.pass_by(settings.steps)
    curve.write(folder)
    return result, host

"""How an arm takes feedback in: by gradients (controller or everything) or by a code memory.

Both answer to one interface, so that the stream treats every arm alike: same serving order, same
canary, same quarantine. The memory's values are the codes that the start adapter gives to cued
requests, one a cue: it can only re-route. A record is kept where one of these codes, or the
prompt's own, reproduces the correction exactly.

Legend: B rows, T positions, N target tokens, S sites, R code size, K = S * R.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bem.context import RoutingContext
from bem.data import IGNORED, Batch, Encoded, encode, pad, pad_id_of
from bem.evaluate import prompt_routing, target_logits, teacher_forced_exact_match
from bem.injection import AdapterHost
from bem.online import CodeMemory, LearnerConfig, OnlineLearner
from missions.living_model.data import CUED, Item, to_examples
from missions.living_model.params import MemoryParams

_OWN = -1
"""Label of a record that confirms the prompt's own code."""


class Updater(ABC):
    """What the stream asks of an arm that learns."""

    num_updates: int = 0

    @abstractmethod
    def observe(self, items: Sequence[Encoded]) -> None:
        """Take feedback in."""

    @abstractmethod
    def update(self) -> None:
        """Learn from it; called between prompts only."""

    @abstractmethod
    def commit(self) -> None:
        """The present state is the last good one."""

    @abstractmethod
    def rollback(self) -> None:
        """Back to the last good state."""

    def routing(self, batch: Batch, index: Sequence[int]) -> RoutingContext:
        """How prompts are served now."""
        return prompt_routing(batch, index)


class GradientUpdater(Updater):
    """An online learner over some of the adapter's parameters."""

    def __init__(self, learner: OnlineLearner[Encoded]) -> None:
        self.learner = learner

    def observe(self, items: Sequence[Encoded]) -> None:
        self.learner.observe(items)

    def update(self) -> None:
        self.learner.update()
        self.num_updates = self.learner.num_updates

    def commit(self) -> None:
        self.learner.commit()

    def rollback(self) -> None:
        self.learner.rollback()


def gradient_updater(
    host: AdapterHost,
    name: str,
    part: str,
    config: LearnerConfig,
    initial: Sequence[Encoded],
    *,
    generator: torch.Generator,
) -> GradientUpdater:
    """Updates of all parameters of adapter `name`, or of its controller's only."""
    host.train_only(name, part=part)
    adapter = host[name]
    slow = {id(parameter) for parameter in adapter.controller_parameters()}
    parameters: dict[str, nn.Parameter] = {
        key: value for key, value in adapter.named_parameters() if value.requires_grad
    }
    pad_id, device = pad_id_of(host.base.tokenizer), host.base.device

    def losses(items: Sequence[Encoded]) -> Tensor:
        return item_losses(host, pad(items, pad_id=pad_id, device=device))

    controller = [key for key, value in parameters.items() if id(value) in slow]
    return GradientUpdater(
        OnlineLearner(parameters, controller, losses, initial, config, generator=generator)
    )


def item_losses(host: AdapterHost, batch: Batch) -> Tensor:
    """Mean cross-entropy over the target tokens of each row (B,)."""
    scored_BT = batch.labels_BT[:, 1:] != IGNORED
    nll_N = nn.functional.cross_entropy(
        target_logits(host, batch, batch.routing()),
        batch.labels_BT[:, 1:][scored_BT],
        reduction="none",
    )
    nll_BT = torch.zeros(scored_BT.shape, device=nll_N.device).masked_scatter(scored_BT, nll_N)
    return nll_BT.sum(1) / scored_BT.sum(1)


class MemoryUpdater(Updater):
    """kNN over the start adapter's codes; no parameter changes."""

    def __init__(
        self, host: AdapterHost, name: str, items: Sequence[Item], params: MemoryParams
    ) -> None:
        self._host = host
        self._name = name
        groups: dict[str, list[Item]] = {}
        for item in items:
            groups.setdefault(item.tag, []).append(item)
        cued = {item.tag for item in items if item.part == CUED}
        with torch.inference_mode():
            centres = {
                tag: self._own_codes(encode(to_examples(group), host.base.tokenizer)).mean(0)
                for tag, group in sorted(groups.items())
            }
        self._values = [centres[tag] for tag in sorted(cued)]
        centres_GK = torch.stack([centre.flatten() for centre in centres.values()])
        radius = params.radius * float(torch.pdist(centres_GK).median())
        self.memory = CodeMemory(radius=radius, votes=params.votes, capacity=params.capacity)
        self._trials = params.trials
        self._fresh: list[Encoded] = []
        self._good = self.memory.state()

    def observe(self, items: Sequence[Encoded]) -> None:
        self._fresh.extend(items)

    @torch.inference_mode()
    def update(self) -> None:
        fresh, self._fresh = self._fresh, []
        if not fresh:
            return
        keys: dict[int, Tensor] = {}
        passes: list[tuple[Sequence[int], RoutingContext]] = []

        def kept(batch: Batch, index: Sequence[int]) -> RoutingContext:
            passes.append((index, batch.routing()))
            return passes[-1][1]

        own = teacher_forced_exact_match(self._host, fresh, routing=kept)
        for index, context in passes:
            keys.update(zip(index, context.cache[self._name], strict=True))
        failed = [at for at, hit in enumerate(own) if not hit][-self._trials :]
        labels = [_OWN if hit else None for hit in own]
        trials = [fresh[at] for at in failed for _ in self._values]
        if trials:
            codes_NSR = torch.stack(self._values).repeat(len(failed), 1, 1)
            right = teacher_forced_exact_match(
                self._host,
                trials,
                routing=lambda batch, index: batch.routing(
                    codes={self._name: codes_NSR[torch.tensor(index)]}
                ),
            )
            for place, at in enumerate(failed):
                tried = right[place * len(self._values) : (place + 1) * len(self._values)]
                labels[at] = tried.index(True) if True in tried else None
        for at, label in enumerate(labels):
            if label is not None:
                self.memory.add(keys[at].flatten(), label)
        self.num_updates += 1

    def commit(self) -> None:
        self._good = self.memory.state()

    def rollback(self) -> None:
        self.memory.restore(self._good)
        self._fresh = []

    def routing(self, batch: Batch, index: Sequence[int]) -> RoutingContext:
        return batch.routing(code_map=self._follow)

    def _follow(self, codes_BSR: Tensor) -> Tensor:
        labels = self.memory.lookup(codes_BSR.flatten(1))
        rows = [
            own if label is None or label == _OWN else self._values[label]
            for own, label in zip(codes_BSR, labels, strict=True)
        ]
        return torch.stack(rows)

    def _own_codes(self, rows: Sequence[Encoded]) -> Tensor:
        """(B, S, R): what the controller says to these prompts."""
        batch = pad(
            rows,
            pad_id=pad_id_of(self._host.base.tokenizer),
            device=self._host.base.device,
            prompt_only=True,
        )
        context = batch.routing()
        self._host.hidden_states(batch.input_ids_BT, batch.attention_mask_BT, routing=context)
        return context.cache[self._name]

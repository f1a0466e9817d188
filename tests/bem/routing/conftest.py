"""A planted routing problem: clusters of prompts with contradictory answers.

A prompt of cluster j mixes the five words of that cluster with words that all clusters use, seven
to three; its answer depends on j alone. The output head of the random base is made five times as
steep, or no adapter could fit any answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bem import AdapterHost, load_base
from bem.data import Batch, Encoded, pad

CLUSTERS = 4


@pytest.fixture
def planted_host(llama_folder: Path) -> Callable[[], AdapterHost]:
    def make() -> AdapterHost:
        base = load_base(llama_folder)
        with torch.no_grad():
            base.model.lm_head.weight.mul_(5)
        return AdapterHost(base)

    return make


@pytest.fixture
def planted_batch() -> Callable[..., Batch]:
    return draw_batch


def draw_batch(
    rows: int,
    draw: torch.Generator,
    *,
    clusters: int = CLUSTERS,
    one_answer: bool = False,
    noisy: tuple[int, ...] = (),
) -> Batch:
    """`noisy` clusters answer with a random cluster's answer; `one_answer`: all with the same."""
    encoded = []
    for i in range(rows):
        j = i % clusters
        own = torch.randint(10 + 5 * j, 15 + 5 * j, (6,), generator=draw)
        common = torch.randint(100, 130, (6,), generator=draw)
        words = torch.where(torch.rand(6, generator=draw) < 0.3, common, own).tolist()
        answer = 0 if one_answer else j
        if j in noisy:
            answer = int(torch.randint(0, clusters, (1,), generator=draw))
        target = (249 - 3 * answer, 250 - 3 * ((answer + 1) % CLUSTERS))
        encoded.append(
            Encoded(prompt_ids=(*words, 5), target_ids=target, id=str(i), cluster=str(j))
        )
    return pad(encoded, pad_id=0)

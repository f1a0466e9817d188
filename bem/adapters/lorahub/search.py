"""The search of LoraHub: weights that make a loss small, by nevergrad, without gradients.

It knows neither data nor models: the caller's loss is a call without arguments.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import nevergrad
import numpy as np
import torch

from bem.adapters.lorahub.layer import LoraHubAdapter
from bem.errors import InvalidInputError, NonFiniteLossError


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """What a search found; the adapter has these weights when it returns."""

    weights: tuple[float, ...]
    """One an expert, in the order of the config."""
    loss: float
    """Of these weights, without the penalty."""
    losses: tuple[float, ...]
    """Of every evaluation, in order, without the penalty."""


def search(
    adapter: LoraHubAdapter,
    loss: Callable[[], float],
    *,
    budget: int = 40,
    bound: float = 1.5,
    l1_weight: float = 0.05,
    generator: torch.Generator,
) -> SearchResult:
    """Minimise `loss() + l1_weight * mean |w|` over weights within +-`bound`, from zeros.

    Defaults are the paper's (arXiv 2307.13269, section 3 and appendix): nevergrad's NGOpt, 40
    evaluations, bound 1.5, L1 0.05. The best weights that were evaluated are kept.

    Args:
        loss: of the host as it stands, say `target_loss(...).item()` without gradients.
    """
    if budget < 1 or bound <= 0:
        raise InvalidInputError(f"budget is {budget}, bound {bound}; give at least 1 and above 0.")
    size = len(adapter.config.experts)
    space = nevergrad.p.Array(init=np.zeros(size), lower=[-bound] * size, upper=[bound] * size)
    seed = int(torch.randint(2**31, (), generator=generator))
    space.random_state = np.random.RandomState(seed)
    optimizer = nevergrad.optimizers.NGOpt(parametrization=space, budget=budget)
    tried: list[tuple[float, float, tuple[float, ...]]] = []
    with warnings.catch_warnings():
        # NGOpt may hand SciPy's COBYLA an end radius or a budget that it replaces by its least
        warnings.filterwarnings("ignore", message="COBYLA: Invalid ", category=UserWarning)
        for _ in range(budget):
            candidate = optimizer.ask()
            weights = tuple(float(w) for w in candidate.value)
            adapter.set_weights(weights)
            value = float(loss())
            if not math.isfinite(value):
                raise NonFiniteLossError(f"The loss of weights {weights} is {value}.")
            penalised = value + l1_weight * sum(abs(w) for w in weights) / size
            tried.append((penalised, value, weights))
            optimizer.tell(candidate, penalised)
    _, value, weights = min(tried)
    adapter.set_weights(weights)
    return SearchResult(weights=weights, loss=value, losses=tuple(t[1] for t in tried))

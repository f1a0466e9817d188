"""Simulated scores of two arms that are alike but for an effect, which is zero in an A/A campaign.

Five regimes of one shape (5 seeds x 1,000 items): what a mission's scores may look like. In all of
them the two arms meet the same items (difficulty shared, so scores are correlated), every training
draws its own luck, and part of that luck is shared by the arms of a seed. Knows no statistics.

Shapes: S seeds, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

FloatArray = npt.NDArray[np.float64]

SEEDS = 5
ITEMS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Regime:
    """How one kind of mission's scores vary."""

    name: str
    kind: Literal["binary", "continuous"]
    level: float
    """Mean score; a probability where scores are binary."""
    item_sd: float
    """Spread of difficulty over items, shared by the arms (latent scale where binary)."""
    interaction_sd: float
    """What an arm has to an item for itself, the same in all its seeds."""
    seed_sd: float
    """Luck of a training, on the scale of the score."""
    shared_luck: float = 0.0
    """Correlation of the luck of the two arms of one seed."""
    tail_df: float | None = None
    """Student's t residuals of this many degrees of freedom; None: normal."""
    cluster_size: int = 1
    """Items of one document, which share their difficulty."""
    effect: float = 0.0
    """Effect of a treatment that works, in the mixed family (about 3.5 standard errors)."""

    @property
    def clustered(self) -> bool:
        return self.cluster_size > 1


REGIMES = (
    Regime(
        name="binary, seeds alike",
        kind="binary",
        level=0.55,
        item_sd=1.0,
        interaction_sd=0.0,
        seed_sd=0.0,
        effect=0.026,
    ),
    Regime(
        name="binary, seeds differ",
        kind="binary",
        level=0.7,
        item_sd=1.0,
        interaction_sd=0.5,
        seed_sd=0.014,
        shared_luck=0.5,
        effect=0.055,
    ),
    Regime(
        name="binary, rare",
        kind="binary",
        level=0.05,
        item_sd=0.7,
        interaction_sd=0.3,
        seed_sd=0.004,
        effect=0.016,
    ),
    Regime(
        name="continuous, interaction",
        kind="continuous",
        level=0.0,
        item_sd=1.0,
        interaction_sd=0.4,
        seed_sd=0.03,
        effect=0.12,
    ),
    Regime(
        name="heavy-tailed, clusters of 4",
        kind="continuous",
        level=0.0,
        item_sd=1.0,
        interaction_sd=0.3,
        seed_sd=0.03,
        shared_luck=0.5,
        tail_df=3.0,
        cluster_size=4,
        effect=0.16,
    ),
)


def draw(
    regime: Regime,
    rng: np.random.Generator,
    *,
    effect: float = 0.0,
    seeds: int = SEEDS,
    items: int = ITEMS,
) -> tuple[FloatArray, FloatArray]:
    """Treatment and control of one mission, (S, N) each; alike but for `effect`."""
    groups = -(-items // regime.cluster_size)
    item_N = np.repeat(rng.normal(size=groups), regime.cluster_size)[:items] * regime.item_sd
    shared_S = rng.normal(size=seeds)

    def arm(shift: float) -> FloatArray:
        own_S = rng.normal(size=seeds)
        mixed_S = np.sqrt(regime.shared_luck) * shared_S
        mixed_S = mixed_S + np.sqrt(1.0 - regime.shared_luck) * own_S
        level_S1 = (regime.level + shift + regime.seed_sd * mixed_S)[:, np.newaxis]
        own_N = np.repeat(rng.normal(size=groups), regime.cluster_size)[:items]
        latent_N = item_N + regime.interaction_sd * own_N
        if regime.kind == "binary":
            return _answers(level_S1, latent_N, regime, rng)
        rest_SN = (
            rng.normal(size=(seeds, items))
            if regime.tail_df is None
            else rng.standard_t(regime.tail_df, size=(seeds, items))
        )
        values_SN: FloatArray = level_S1 + latent_N + rest_SN
        return values_SN

    return arm(effect), arm(0.0)


def _answers(
    level_S1: FloatArray, latent_N: FloatArray, regime: Regime, rng: np.random.Generator
) -> FloatArray:
    """0/1 with the wanted mean: a probit whose spread holds difficulty and interaction."""
    spread = np.sqrt(1.0 + regime.item_sd**2 + regime.interaction_sd**2)
    threshold_S1 = ndtri(np.clip(level_S1, 1e-6, 1.0 - 1e-6)) * spread
    right_SN = rng.random((len(level_S1), len(latent_N))) < ndtr(threshold_S1 + latent_N)
    values_SN: FloatArray = right_SN.astype(np.float64)
    return values_SN

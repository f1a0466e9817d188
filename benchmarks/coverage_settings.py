"""Simulated campaigns of known effect, for the coverage study.

A setting says how paired differences D[s, i] (seed s, example i) come about; `draw` makes many
campaigns of it at once. Every setting knows its true mean exactly. Knows no interval.

    binary      0/1 scores of two arms on shared items. A cell is 1 if its uniform number lies below
                the level of its arm and seed. The number belongs to the item (shared by arms and
                seeds) with probability 0.5, to the item of this arm with probability `arm_item`,
                else to the cell alone. `seed_sd` is the SD of the difference of the two arms'
                levels over seeds.
    normal, t3  D = seed + item + cell effects of the given SDs; all normal, or all Student t with
                3 degrees of freedom scaled to unit variance.
    lognormal   exp of a sum of normal item, arm x item, seed and cell effects for each arm;
                D is the difference, the effect multiplies.
    one arm     not a difference but one arm's score, as bound gates see it: lognormal or binary.
    skewed      normal, but seed effects are centred lognormal numbers, or one seed in ten fails.

Shapes: S seeds, N examples, M campaigns.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SHAPES = tuple(itertools.product((3, 5, 10), (200, 1000)))
SHARED_ITEM = 0.5
LOG_SD = 0.6
"""SD of the log score over items and over cells."""
FAILING = 0.1
"""Share of seeds that fail in the setting of that name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One way in which campaigns come about."""

    block: str
    """binary, normal, t3, lognormal: what the default interval answers for; stress: beyond it."""
    kind: str
    seeds: int
    examples: int
    base: float = 0.0
    """Binary: score of the control."""
    effect: float = 0.0
    seed_sd: float = 0.0
    arm_item: float = 0.0
    """Arm x example interaction: a share of cells (binary) or an SD."""
    cell_sd: float = 0.0
    """Seed x example residual: an SD; binary cells have their own by construction."""

    @property
    def truth(self) -> float:
        """The mean that an interval should cover."""
        if self.kind == "lognormal":
            return self.effect * self.log_mean
        if self.kind == "one arm lognormal":
            return self.log_mean
        return self.base if self.kind == "one arm binary" else self.effect

    @property
    def log_mean(self) -> float:
        """Mean of one arm's lognormal score without the effect."""
        return math.exp(0.5 * (2 * LOG_SD**2 + self.arm_item**2 + self.seed_sd**2))


def all_settings() -> list[Setting]:
    """Every setting of the study, in a fixed order."""
    made: list[Setting] = []
    for seeds, examples in SHAPES:
        size = {"seeds": seeds, "examples": examples}
        for base, effect, seed_sd in itertools.product(
            (0.05, 0.2, 0.5, 0.8, 0.95), (0.0, 0.015), (0.0, 0.007, 0.022)
        ):
            made.append(_binary(size, base, effect, seed_sd, 0.0))
        for base, effect, seed_sd in itertools.product(
            (0.05, 0.5, 0.95), (0.0, 0.015), (0.0, 0.022)
        ):
            made.append(_binary(size, base, effect, seed_sd, 0.3))
        for kind, spreads in (("normal", ((0, 1), (1, 1), (1, 0.3))), ("t3", ((0, 1), (1, 1)))):
            for (item, cell), seed_sd in itertools.product(spreads, (0.0, 0.05, 0.2)):
                made.append(
                    Setting(
                        block=kind,
                        kind=kind,
                        seed_sd=seed_sd,
                        arm_item=float(item),
                        cell_sd=float(cell),
                        **size,
                    )
                )
        for item, seed_sd, effect in itertools.product((0.0, 0.5), (0.0, 0.05), (0.0, 0.05)):
            made.append(
                Setting(
                    block="lognormal",
                    kind="lognormal",
                    effect=effect,
                    seed_sd=seed_sd,
                    arm_item=item,
                    cell_sd=LOG_SD,
                    **size,
                )
            )
        for seed_sd in (0.0, 0.05):
            made.append(
                Setting(
                    block="stress",
                    kind="one arm lognormal",
                    seed_sd=seed_sd,
                    cell_sd=LOG_SD,
                    **size,
                )
            )
        for base in (0.02, 0.98):
            made.append(
                Setting(block="stress", kind="one arm binary", base=base, seed_sd=0.007, **size)
            )
        for kind in ("skewed seeds", "failing seeds"):
            made.append(
                Setting(block="stress", kind=kind, seed_sd=0.2, arm_item=1.0, cell_sd=1.0, **size)
            )
    return made


def draw(setting: Setting, campaigns: int, rng: np.random.Generator) -> Floats:
    """Differences (or one arm's scores) of many campaigns: S x N x M, float32."""
    if setting.kind == "binary":
        return _draw_binary(setting, campaigns, rng)
    if setting.kind == "one arm binary":
        level_SM = _levels(setting.base, setting.seed_sd, setting.seeds, campaigns, rng)
        item_NM = rng.random((setting.examples, campaigns), dtype=np.float32)
        return _binary_arm(setting, level_SM, item_NM, None, rng)
    if setting.kind == "lognormal":
        item_NM = _item_logs(setting, campaigns, rng)
        control = _lognormal_arm(setting, item_NM, campaigns, rng)
        treatment = _lognormal_arm(setting, item_NM, campaigns, rng)
        return np.float32(1 + setting.effect) * treatment - control
    if setting.kind == "one arm lognormal":
        return _lognormal_arm(setting, _item_logs(setting, campaigns, rng), campaigns, rng)
    return _draw_additive(setting, campaigns, rng)


def _binary(
    size: dict[str, int], base: float, effect: float, seed_sd: float, arm_item: float
) -> Setting:
    return Setting(
        block="binary",
        kind="binary",
        base=base,
        effect=effect,
        seed_sd=seed_sd,
        arm_item=arm_item,
        **size,
    )


def _draw_binary(setting: Setting, campaigns: int, rng: np.random.Generator) -> Floats:
    item_NM = rng.random((setting.examples, campaigns), dtype=np.float32)
    arms = []
    for level in (setting.base + setting.effect, setting.base):
        level_SM = _levels(level, setting.seed_sd / math.sqrt(2), setting.seeds, campaigns, rng)
        own_NM = None
        if setting.arm_item > 0:
            own_NM = rng.random((setting.examples, campaigns), dtype=np.float32)
        arms.append(_binary_arm(setting, level_SM, item_NM, own_NM, rng))
    return np.subtract(arms[0], arms[1], out=arms[0])


def _levels(
    level: float, sd: float, seeds: int, campaigns: int, rng: np.random.Generator
) -> Floats:
    """Level of each seed. Deviations are cut off symmetrically, so that the mean stays."""
    room = min(level, 1 - level)
    deviation_SM = sd * rng.standard_normal((seeds, campaigns))
    return (level + np.clip(deviation_SM, -room, room)).astype(np.float32)


def _binary_arm(
    setting: Setting,
    level_SM: Floats,
    item_NM: Floats,
    arm_item_NM: Floats | None,
    rng: np.random.Generator,
) -> Floats:
    shared = np.float32(SHARED_ITEM)
    taken = np.float32(SHARED_ITEM + setting.arm_item)
    scores_SNM = np.empty((len(level_SM), *item_NM.shape), dtype=np.float32)
    for s, level_M in enumerate(level_SM):
        # One number says whose the cell is and, if it is the cell's own, what it scores.
        cell_NM = rng.random(item_NM.shape, dtype=np.float32)
        hit_NM = cell_NM < taken + (1 - taken) * level_M
        if arm_item_NM is not None:
            hit_NM = np.where(cell_NM < taken, arm_item_NM < level_M, hit_NM)
        scores_SNM[s] = np.where(cell_NM < shared, item_NM < level_M, hit_NM)
    return scores_SNM


def _item_logs(setting: Setting, campaigns: int, rng: np.random.Generator) -> Floats:
    return np.float32(LOG_SD) * rng.standard_normal((setting.examples, campaigns), dtype=np.float32)


def _lognormal_arm(
    setting: Setting, item_NM: Floats, campaigns: int, rng: np.random.Generator
) -> Floats:
    level_NM = item_NM
    if setting.arm_item > 0:
        level_NM = item_NM + np.float32(setting.arm_item) * rng.standard_normal(
            item_NM.shape, dtype=np.float32
        )
    seed_SM = setting.seed_sd * rng.standard_normal((setting.seeds, campaigns))
    scores_SNM = rng.standard_normal((setting.seeds, setting.examples, campaigns), dtype=np.float32)
    scores_SNM *= np.float32(setting.cell_sd)
    scores_SNM += level_NM
    scores_SNM += seed_SM[:, None].astype(np.float32)
    return np.exp(scores_SNM, out=scores_SNM)


def _draw_additive(setting: Setting, campaigns: int, rng: np.random.Generator) -> Floats:
    shape = (setting.seeds, setting.examples, campaigns)
    heavy = setting.kind == "t3"
    differences_SNM = _unit(shape, heavy, rng)
    differences_SNM *= np.float32(setting.cell_sd)
    if setting.arm_item > 0:
        differences_SNM += np.float32(setting.arm_item) * _unit(shape[1:], heavy, rng)
    if setting.seed_sd > 0:
        seed_SM = setting.seed_sd * _seed_effects(setting, campaigns, rng)
        differences_SNM += seed_SM[:, None].astype(np.float32)
    differences_SNM += np.float32(setting.effect)
    return differences_SNM


def _seed_effects(
    setting: Setting, campaigns: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Seed effects of mean 0 and variance 1."""
    shape = (setting.seeds, campaigns)
    if setting.kind == "skewed seeds":
        raw = np.exp(rng.standard_normal(shape)) - math.exp(0.5)
        return raw / math.sqrt((math.e - 1) * math.e)
    if setting.kind == "failing seeds":
        failed = rng.random(shape) < FAILING
        return (FAILING - failed) / math.sqrt(FAILING * (1 - FAILING))
    return _unit(shape, setting.kind == "t3", rng).astype(np.float64)


def _unit(shape: tuple[int, ...], heavy: bool, rng: np.random.Generator) -> Floats:
    """Numbers of mean 0 and variance 1: normal, or t with 3 degrees of freedom."""
    normal = rng.standard_normal(shape, dtype=np.float32)
    if not heavy:
        return normal
    # A chi-square of 3 degrees of freedom is twice a gamma of shape 1.5; t3 has variance 3.
    gamma = rng.standard_gamma(1.5, shape, dtype=np.float32)
    normal /= np.sqrt(2 * gamma, out=gamma)
    return normal

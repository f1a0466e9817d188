"""Alpha spending (Lan and DeMets 1983) and the nominal levels of normally distributed looks.

The O'Brien-Fleming-type function spends, of a one-sided level alpha, up to the information t

    f(t) = 1 - Phi(z_{1-alpha} / sqrt(t)),        f(1) = alpha,

which is 2 - 2 Phi(z_{1-a/2} / sqrt(t)) of a two-sided level a = 2 alpha, half on each side. (Most
programs apply the formula to each side's alpha instead, with z_{1-alpha/2} and a factor of 2:
`per_side=True`. That spends less early.) With B(t) a Brownian motion the nominal level of each
look follows from the recursion of Armitage, McPherson and Rowe (1969): the sub-density of the
paths that have not crossed is carried from look to look by Gauss-Legendre quadrature. Knows
nothing of seeds: with few of them the t statistic needs `stats.sequential.t_process`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from stats.errors import DegenerateDataError

FloatArray = npt.NDArray[np.float64]

_NODES = 200
_FAR = 8.5
"""Standard deviations beyond which a path is not followed."""


def obrien_fleming(information: float, alpha: float, *, per_side: bool = False) -> float:
    """One-sided level spent up to a share of the information in (0, 1]."""
    if not 0.0 < information <= 1.0:
        raise DegenerateDataError(f"information must lie in (0, 1], got {information}.")
    if not 0.0 < alpha < 0.5:
        raise DegenerateDataError(f"alpha must lie in (0, 0.5), got {alpha}.")
    factor = 2.0 if per_side else 1.0
    return float(factor * ndtr(ndtri(alpha / factor) / math.sqrt(information)))


def normal_levels(information: Sequence[float], spent: Callable[[float], float]) -> list[float]:
    """One-sided nominal p-value at each look of a Brownian motion.

    Args:
        information: increasing shares of the full information.
        spent: level spent up to a share.
    """
    _check_order(information)
    levels: list[float] = []
    before, at = 0.0, 0.0
    # Paths that have not crossed: nodes u with the mass that each carries. All start in 0.
    nodes_Q, mass_Q = np.zeros(1), np.ones(1)
    for share in information:
        step = math.sqrt(share - at)
        wanted = spent(share) - before
        edge = _crossing_edge(nodes_Q, mass_Q, step, wanted)
        levels.append(float(ndtr(-edge / math.sqrt(share))))
        nodes_Q, mass_Q = _carry(nodes_Q, mass_Q, step, edge, math.sqrt(share))
        before, at = spent(share), share
    return levels


def _crossing_edge(nodes_Q: FloatArray, mass_Q: FloatArray, step: float, wanted: float) -> float:
    """The edge that this mass crosses with the wanted probability."""

    def excess(edge: float) -> float:
        return float(np.sum(mass_Q * ndtr((nodes_Q - edge) / step))) - wanted

    return float(brentq(excess, -_FAR, _FAR, xtol=1e-13))


def _carry(
    nodes_Q: FloatArray, mass_Q: FloatArray, step: float, edge: float, spread: float
) -> tuple[FloatArray, FloatArray]:
    """Nodes and masses of the paths below the edge after one more step."""
    low = -_FAR * spread
    unit_Q, weight_Q = np.polynomial.legendre.leggauss(_NODES)
    new_Q = low + (edge - low) * (unit_Q + 1.0) / 2.0
    gaps_QQ = (new_Q[:, None] - nodes_Q[None, :]) / step
    density_Q = np.exp(-0.5 * gaps_QQ**2) @ mass_Q / (step * math.sqrt(2.0 * math.pi))
    return new_Q, density_Q * weight_Q * (edge - low) / 2.0


def _check_order(information: Sequence[float]) -> None:
    if len(information) == 0 or any(
        later <= earlier for earlier, later in zip((0.0, *information), information, strict=False)
    ):
        raise DegenerateDataError(f"looks must increase from above 0, got {list(information)}.")

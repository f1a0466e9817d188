"""Oracle: nominal levels of normally distributed looks, by quadrature of a Brownian motion.

The recursion of Armitage, McPherson and Rowe (1969): the sub-density of the paths that have not
crossed is carried from look to look by Gauss-Legendre quadrature. Published tables of bounds are
about these levels; what the package uses is their counterpart for the t of few seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

FloatArray = npt.NDArray[np.float64]

_NODES = 200
_FAR = 8.5
"""Standard deviations beyond which a path is not followed."""


def obrien_fleming_per_side(information: float, alpha: float) -> float:
    """Level spent by most programs, which apply the two-sided formula to each side's alpha."""
    return float(2.0 * ndtr(ndtri(alpha / 2.0) / math.sqrt(information)))


def normal_levels(information: Sequence[float], spent: Callable[[float], float]) -> list[float]:
    """One-sided nominal p-value at each look of a Brownian motion.

    Args:
        information: increasing shares of the full information.
        spent: level spent up to a share.
    """
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

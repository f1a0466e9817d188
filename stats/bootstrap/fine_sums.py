"""Distribution of a resampled sum whose values lie on no coarse lattice, as a Fourier series.

Sums are standardised: Z adds up N draws of w_1..w_N with mean 0 and sum of squares 1, so that Z has
variance 1. On (-L, L), and with psi(u) = 1/N sum_j exp(i u w_j),

    P(Z <= z) = (z + L) / 2L + sum_{k=1..K} Re[ psi(u_k)^N i (exp(-i u_k z) - (-1)^k) / (u_k L) ],
    u_k = pi k / L

L is such that Bennett's inequality puts less than 1e-11 outside. Where the series may end, a
histogram of w tells: its Fourier transform bounds |psi| up to `FINEST`. The series ends where
|psi|^N stays below 1e-10 from there on. Where it does not, as on a lattice or with few units, the
sum is not resolved. Steps of a lattice finer than 2 pi / FINEST = 0.013 standard deviations would
be smoothed over: a limit moves by half a step at most.

Knows nothing of BCa. Shapes: N units, M metrics, K frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import rfft
from scipy.special import ndtri

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]
BoolArray = npt.NDArray[np.bool_]

FINEST = 500.0
"""Largest frequency that is looked at."""
NEGLIGIBLE = 1e-10
"""Terms of the series below this are left out; probabilities are good to ten times this."""
_OUTSIDE = 1e-11
_SLACK = 0.04
"""How far |psi| may rise between two frequencies of the histogram's transform."""
_BIN = 0.05
"""Width of a bin, in standard deviations of the data."""
_MOST_TERMS = 1024
_BLOCK_CELLS = 8192
_CLOSE = 1e-11
_MOST_STEPS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class FineSums:
    """The series of M sums, those with the same period and length in one block."""

    blocks: tuple[_Block, ...]
    resolved_M: BoolArray

    @classmethod
    def of(cls, unit_MN: FloatArray) -> FineSums:
        """The series of the sum of N draws from each row (mean 0, sum of squares 1)."""
        num_metrics, num_units = unit_MN.shape
        last_M = np.full(num_metrics, np.inf)
        largest_M = np.zeros(num_metrics)
        rows = max(_BLOCK_CELLS // num_units, 1)
        for start in range(0, num_metrics, rows):
            part_mN = unit_MN[start : start + rows]
            last_M[start : start + rows] = _last_frequencies(part_mN)
            largest_M[start : start + rows] = np.abs(part_mN).max(axis=1)
        period_M = half_periods(largest_M)
        with np.errstate(invalid="ignore"):
            terms_M = np.ceil(last_M * period_M / math.pi) + 1
        resolved_M = terms_M <= _MOST_TERMS
        # Neighbours in this order have nearly the same period and length.
        order = np.lexsort((period_M, terms_M))
        order = order[resolved_M[order]]
        blocks = []
        for start in range(0, len(order), rows):
            at = order[start : start + rows]
            half = float(period_M[at].max())
            terms = math.ceil(float(last_M[at].max()) * half / math.pi) + 1
            blocks.append(_Block.of(at, unit_MN[at], half, terms))
        return cls(blocks=tuple(blocks), resolved_M=resolved_M)

    def share_below(self, z_M: FloatArray) -> FloatArray:
        """P(Z <= z) of each metric at its own z; 0.5 where it is not resolved."""
        found_M = np.full(len(z_M), 0.5)
        for block in self.blocks:
            found_M[block.at] = block.probability(z_M[block.at])[0]
        return found_M

    def quantile(self, probability_M: FloatArray) -> FloatArray:
        """Where P(Z <= z) is the metric's own probability; NaN outside (0, 1) or not resolved."""
        found_M = np.full(len(probability_M), np.nan)
        for block in self.blocks:
            found_M[block.at] = block.quantile(probability_M[block.at])
        return found_M


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """Some metrics with one period."""

    at: npt.NDArray[np.intp]
    half: float
    """L: half the period."""
    frequency_K: FloatArray
    terms_mK: ComplexArray
    """psi^N i / (u L)."""
    constant_m: FloatArray

    @classmethod
    def of(cls, at: npt.NDArray[np.intp], unit_mN: FloatArray, half: float, terms: int) -> _Block:
        frequency_K: FloatArray = math.pi / half * np.arange(1, terms + 1, dtype=np.float64)
        power_mK = whole_power(_psi(unit_mN, math.pi / half, terms), unit_mN.shape[1])
        terms_mK = power_mK * (1j / (frequency_K * half))
        sign_K = np.where(np.arange(1, terms + 1) % 2, -1.0, 1.0)
        return cls(
            at=at,
            half=half,
            frequency_K=frequency_K,
            terms_mK=terms_mK,
            constant_m=0.5 - terms_mK.real @ sign_K,
        )

    def probability(self, z_m: FloatArray) -> tuple[FloatArray, FloatArray]:
        """P(Z <= z) and the density there."""
        waves_mK = self.terms_mK * np.exp(-1j * z_m[:, None] * self.frequency_K)
        share_m = z_m / (2 * self.half) + self.constant_m + waves_mK.real.sum(axis=1)
        density_m = 1 / (2 * self.half) + waves_mK.imag @ self.frequency_K
        return share_m, density_m

    def quantile(self, probability_m: FloatArray) -> FloatArray:
        """Newton's method, kept inside a bracket."""
        inside_m = (probability_m > 10 * NEGLIGIBLE) & (probability_m < 1 - 10 * NEGLIGIBLE)
        goal_m = np.where(inside_m, probability_m, 0.5)
        z_m = ndtri(goal_m)
        low_m, high_m = np.full(len(z_m), -self.half), np.full(len(z_m), self.half)
        for _ in range(_MOST_STEPS):
            share_m, density_m = self.probability(z_m)
            miss_m = share_m - goal_m
            if bool((np.abs(miss_m) < _CLOSE).all()):
                break
            low_m = np.where(miss_m < 0, z_m, low_m)
            high_m = np.where(miss_m > 0, z_m, high_m)
            with np.errstate(divide="ignore", invalid="ignore"):
                next_m = z_m - miss_m / density_m
            proper_m = (next_m > low_m) & (next_m < high_m)
            z_m = np.where(proper_m, next_m, 0.5 * (low_m + high_m))
        return np.where(inside_m, z_m, np.nan)


def half_periods(largest_M: FloatArray) -> FloatArray:
    """L with P(|Z| > L) < 1e-11, where no |w| exceeds `largest` (Bennett 1962).

    P(Z > L) <= exp(-((1 + bL) ln(1 + bL) - bL) / b^2) for |w| <= b.
    """
    bound_M = np.maximum(largest_M, 1e-6)
    low_M, high_M = np.full(len(bound_M), 1.0), np.full(len(bound_M), 41.0)
    for _ in range(10):
        half_M = 0.5 * (low_M + high_M)
        reach_M = bound_M * half_M
        exponent_M = ((1 + reach_M) * np.log1p(reach_M) - reach_M) / bound_M**2
        enough_M = exponent_M >= -math.log(_OUTSIDE / 2)
        low_M = np.where(enough_M, low_M, half_M)
        high_M = np.where(enough_M, half_M, high_M)
    return high_M


def whole_power(base: ComplexArray, exponent: int) -> ComplexArray:
    """base^exponent by squaring; several times quicker than complex `**`."""
    found = np.ones_like(base)
    square = base.copy()
    with np.errstate(under="ignore"):
        while exponent:
            if exponent & 1:
                found *= square
            exponent >>= 1
            if exponent:
                square *= square
    return found


def _psi(unit_mN: FloatArray, spacing: float, terms: int) -> ComplexArray:
    """psi(k spacing) for k = 1..terms: powers of exp(i spacing w), few of them multiplied out.

    With k = g A + a, exp(i k v) is exp(i v)^a times exp(i A v)^g, and the sum over units of all
    pairs (g, a) is one matrix product.
    """
    num_metrics, num_units = unit_mN.shape
    narrow = math.ceil(math.sqrt(terms + 1))
    wide = math.ceil((terms + 1) / narrow)
    wave_mN = np.empty(unit_mN.shape, dtype=np.complex128)
    np.cos(spacing * unit_mN, out=wave_mN.real)
    np.sin(spacing * unit_mN, out=wave_mN.imag)
    small_mAN = _powers(wave_mN, narrow)
    large_mGN = _powers(small_mAN[:, -1] * wave_mN, wide)
    sums_mGA = large_mGN @ small_mAN.transpose(0, 2, 1)
    found: ComplexArray = sums_mGA.reshape(num_metrics, -1)[:, 1 : terms + 1] / num_units
    return found


def _powers(wave_mN: ComplexArray, number: int) -> ComplexArray:
    powers_mPN = np.empty((wave_mN.shape[0], number, wave_mN.shape[1]), dtype=np.complex128)
    powers_mPN[:, 0] = 1.0
    for p in range(1, number):
        np.multiply(powers_mPN[:, p - 1], wave_mN, out=powers_mPN[:, p])
    return powers_mPN


def _last_frequencies(unit_mN: FloatArray) -> FloatArray:
    """The frequency above which |psi|^N is negligible up to `FINEST`; inf where there is none.

    Values move by at most half a bin, so phases by e = u bin / 2 and |psi| by at most e. Where e is
    not small: if |psi| reached the threshold t, the binned values would still reach
    t cos(e) - sqrt(1 - t^2) sin(e).
    """
    num_metrics, num_units = unit_mN.shape
    root = math.sqrt(num_units)
    threshold = NEGLIGIBLE ** (1 / num_units)
    bin_width = min(_BIN / root, math.pi / (4 * FINEST))
    num_bins = 2 ** math.ceil(math.log2(math.pi / (_SLACK * root * bin_width)))
    bins_mN = np.rint(unit_mN / bin_width).astype(np.int64) % num_bins
    bins_mN += num_bins * np.arange(num_metrics)[:, None]
    counts = np.bincount(bins_mN.ravel(), minlength=num_metrics * num_bins)
    transform = rfft(counts.reshape(num_metrics, num_bins).astype(np.float32), axis=1)
    spacing = 2 * math.pi / (num_bins * bin_width)
    reached = min(math.floor(FINEST / spacing), num_bins // 2)
    frequency_F = spacing * np.arange(reached + 1)
    size_mF = np.abs(transform[:, : reached + 1]) / num_units
    moved_F = frequency_F * bin_width / 2
    across = math.sqrt(1 - threshold**2)
    limit_F = np.maximum(
        threshold - moved_F, threshold * np.cos(moved_F) - across * np.sin(moved_F)
    )
    above_mF = size_mF >= limit_F - _SLACK
    last_m = reached - np.argmax(above_mF[:, ::-1], axis=1)
    return np.where(above_mF[:, -1], np.inf, (last_m + 1) * spacing)

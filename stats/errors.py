"""Exceptions of the statistics package. Knows no data and no method.

    StatsError (ValueError)
    ├── ScoreError             a score table is malformed
    │   ├── DuplicateCellError     one cell, two different values
    │   └── NonFiniteScoreError    NaN or infinity among the values
    ├── MissingCellsError      the grid of seeds x examples is not complete
    ├── DegenerateDataError    too few seeds or examples for the method that was asked for
    ├── MagnitudeError         numbers too large or too small for double precision
    └── GateError              a gate cannot be evaluated on these scores as configured

All of them take one message and pickle, because they cross processes.
"""

from __future__ import annotations


class StatsError(ValueError):
    """Base of every error that this package raises on purpose."""


class ScoreError(StatsError):
    """A score table is malformed."""


class DuplicateCellError(ScoreError):
    """The same (arm, seed, example, metric) came with two different values."""


class NonFiniteScoreError(ScoreError):
    """A score is NaN or infinite."""


class MissingCellsError(StatsError):
    """The grid of seeds x examples is not complete, or manifests differ between arms."""


class DegenerateDataError(StatsError):
    """Too few seeds or examples for the method that was asked for."""


class MagnitudeError(StatsError):
    """Numbers so large or so small that their squares leave double precision."""


class GateError(StatsError):
    """A gate cannot be evaluated on these scores as configured."""

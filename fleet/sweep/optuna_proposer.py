"""Settings from Optuna through Ray Tune's search: the file's own first, then proposals that learn.

One search an arm, all with the same sampler seed: arms that search the same ranges get the same
first proposals. The number of random proposals before the model of the scores is used is a third
of the trials, ten at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from missions.sweep_spec import Choice, Domain, IntRange, LogUniform, Space, SweepConfig

METRIC = "score"


class OptunaProposer:
    """Proposals for one arm; see `fleet.sweep.halving.Proposer`."""

    def __init__(self, sweep: SweepConfig, arm: str, first: Mapping[str, Any]) -> None:
        """`first`: the mission file's own settings."""
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(
            seed=sweep.sampler_seed, n_startup_trials=min(10, max(2, sweep.trials // 3))
        )
        self._search = OptunaSearch(
            space=distributions(sweep.space_of(arm)),
            metric=METRIC,
            mode=sweep.mode,
            points_to_evaluate=[dict(first)],
            sampler=sampler,
        )

    def propose(self, number: int) -> Mapping[str, Any]:
        found = self._search.suggest(str(number))
        assert found is not None, "Optuna proposes whenever it is asked"
        return dict(found)

    def learn(self, number: int, score: float | None) -> None:
        if score is None:
            self._search.on_trial_complete(str(number), error=True)
        else:
            self._search.on_trial_complete(str(number), {METRIC: score})


def distributions(space: Space) -> dict[str, Any]:
    """Ranges of a mission file as Optuna's."""
    return {path: _distribution(domain) for path, domain in space.items()}


def _distribution(domain: Domain) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(domain, Choice):
        return CategoricalDistribution(list(domain.values))
    if isinstance(domain, IntRange):
        return IntDistribution(domain.low, domain.high)
    return FloatDistribution(domain.low, domain.high, log=isinstance(domain, LogUniform))

"""A sweep before it runs: its trials, its cost and what it searches, for `--dry-run`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.sweep.halving import rung_sizes
from missions.spec import MissionSpec
from missions.sweep_spec import Choice, Domain, LogUniform


def sweep_plan(spec: MissionSpec) -> dict[str, Any] | None:
    """As plain JSON data; None where the mission has no sweep."""
    if spec.sweep is None:
        return None
    sweep = spec.sweep
    sizes = rung_sizes(sweep.trials, len(sweep.rungs), sweep.reduction)
    return {
        "mission": spec.id,
        "metric": sweep.metric,
        "mode": sweep.mode,
        "seeds": list(sweep.seeds),
        "trials_per_arm": sweep.trials,
        "trials_by_rung": list(sizes),
        "trainings": sum(sizes) * len(sweep.arms) * len(sweep.seeds),
        "rungs": [dict(rung) for rung in sweep.rungs],
        "space": {
            arm: {path: _words(domain) for path, domain in sweep.space_of(arm).items()}
            for arm in sweep.arms
        },
        "follow": {arm: list(leaders) for arm, leaders in sweep.follow.items()},
        "untuned": dict(sweep.untuned),
        "concurrency": sweep.concurrency,
        "expected_cpu_s": sweep.expected_cpu_s,
    }


def sweep_lines(spec: MissionSpec) -> list[str]:
    """In words; empty where the mission has no sweep."""
    plan = sweep_plan(spec)
    if plan is None:
        return []
    cost = f"about {plan['expected_cpu_s']:.0f} CPU s" if plan["expected_cpu_s"] else "cost unknown"
    by_rung = " -> ".join(map(str, plan["trials_by_rung"]))
    rungs = f" (by rung {by_rung})" if len(plan["trials_by_rung"]) > 1 else ""
    lines = [
        f"{spec.id} sweep first, on dev: {len(plan['space'])} arms x {plan['trials_per_arm']} "
        f"settings{rungs}, {plan['trainings']} trainings, {plan['mode']} {plan['metric']}, {cost}"
    ]
    spaces = {tuple(space.items()) for space in plan["space"].values()}
    if len(spaces) == 1:
        lines.append(f"  {', '.join(plan['space'])}: {_space(spaces.pop())}")
    else:
        lines += [f"  {arm}: {_space(tuple(s.items()))}" for arm, s in plan["space"].items()]
    lines += [f"  {arm}: as {', '.join(who)}" for arm, who in plan["follow"].items()]
    lines += [f"  {arm}: not tuned, {why}" for arm, why in plan["untuned"].items()]
    return lines


def show_settings(settings: Mapping[str, Any]) -> str:
    """Settings in few characters."""
    return ", ".join(
        f"{path} {value:.4g}" if isinstance(value, float) else f"{path} {value}"
        for path, value in settings.items()
    )


def _space(space: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{path} {words}" for path, words in space)


def _words(domain: Domain) -> str:
    if isinstance(domain, Choice):
        return f"one of {', '.join(map(str, domain.values))}"
    scale = ", logarithmic" if isinstance(domain, LogUniform) else ""
    return f"{domain.low:g} to {domain.high:g}{scale}"

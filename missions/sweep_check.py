"""Checks a `sweep:` section against the mission's code: every path, every end of every range.

The file's own settings must lie in the ranges: they are the first trial of every arm, and its size
is what the size of the others is compared with. Knows no fleet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from missions.errors import SpecError
from missions.protocol import Mission
from missions.settings import get, with_rung, with_settings
from missions.spec import MissionSpec
from missions.spec_errors import describe, suggest
from missions.sweep_spec import Choice, Domain, SweepConfig


def check_overrides(spec: MissionSpec, mission: Mission, source: str) -> None:
    """Validates what arms have otherwise than the mission.

    Raises:
        SpecError: names arm and field.
    """
    for name, arm in spec.arms.items():
        where = f"{source}: arms.{name}.override"
        for part in arm.override:
            if part not in mission.tunable:
                raise SpecError(
                    f"{where}: an arm of mission {spec.id} cannot have its own {part!r}."
                    f"{suggest(part, mission.tunable)}"
                )
        if arm.override:
            _parse(mission.params_model, spec.seen_by(name).params, where)


def check_sweep(spec: MissionSpec, mission: Mission, source: str) -> None:
    """Validates paths, ranges and rungs of the sweep, if there is one.

    Raises:
        SpecError: names path and value, and what is known.
    """
    if spec.sweep is None:
        return
    sweep = spec.sweep
    for arm in sweep.arms:
        file_settings(spec, mission, arm, source)
        for number, rung in enumerate(sweep.rungs):
            try:
                lowered = with_rung(spec, rung)
            except ValidationError as error:
                where = f"{source}: sweep.rungs[{number}]"
                raise SpecError(describe(error, MissionSpec, where)) from None
            where = f"{source}: sweep.rungs[{number}]"
            _parse(mission.params_model, lowered.params, where)
            for path, value in _ends(sweep, arm):
                tried = with_settings(lowered, arm, {path: value})
                where = f"{source}: sweep of arm {arm}, {path} = {value!r}"
                if path.startswith("arm.") and mission.arm_model is not None:
                    _parse(mission.arm_model, tried.arms[arm].params, where)
                _parse(mission.params_model, tried.seen_by(arm).params, where)


def file_settings(spec: MissionSpec, mission: Mission, arm: str, source: str) -> dict[str, Any]:
    """What the mission file sets for everything that an arm searches; its first trial.

    Raises:
        SpecError: a path that is not there or may not be searched, or a setting outside its range.
    """
    assert spec.sweep is not None, "only a mission with a sweep has settings to search"
    found: dict[str, Any] = {}
    for path, domain in spec.sweep.space_of(arm).items():
        where = f"{source}: sweep of arm {arm}: {path}"
        root, _, rest = path.partition(".")
        if root == "arm":
            if mission.arm_model is None:
                raise SpecError(
                    f"{where}: arms of mission {spec.id} have no settings of their own; search "
                    f"params.{' or params.'.join(mission.tunable) or '(nothing)'}."
                )
            known = _parse(mission.arm_model, spec.arms[arm].params, where)
        else:
            part = rest.partition(".")[0]
            known = _parse(mission.params_model, spec.seen_by(arm).params, where)
            if part in known and part not in mission.tunable:
                raise SpecError(
                    f"{where}: mission {spec.id} shares {part!r} among its arms; an arm may have "
                    f"its own {', '.join(mission.tunable) or '(nothing)'}."
                )
        value = _value(known, rest, where)
        if not domain.holds(value):
            raise SpecError(
                f"{where}: the file's own setting {value!r} is outside the range; it is the first "
                "trial of every arm, so the range must hold it."
            )
        found[path] = value
    return found


def _value(known: dict[str, Any], path: str, where: str) -> Any:
    try:
        return get(known, path)
    except KeyError as error:
        missing = str(error.args[0])
        above = path.split(".")[: path.split(".").index(missing)]
        at = get(known, ".".join(above)) if above else known
        names = at if isinstance(at, dict) else ()
        raise SpecError(f"{where}: unknown setting {missing!r}.{suggest(missing, names)}") from None


def _ends(sweep: SweepConfig, arm: str) -> Iterator[tuple[str, Any]]:
    for path, domain in sweep.space_of(arm).items():
        for value in _extremes(domain):
            yield path, value


def _extremes(domain: Domain) -> tuple[Any, ...]:
    return domain.values if isinstance(domain, Choice) else (domain.low, domain.high)


def _parse(model: type[BaseModel], document: Any, where: str) -> dict[str, Any]:
    try:
        return model.model_validate(document).model_dump(mode="json")
    except ValidationError as error:
        raise SpecError(describe(error, model, where)) from None

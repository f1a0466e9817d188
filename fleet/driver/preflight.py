"""Checks before anything is trained: base models, their floors, this machine's size, the disk.

Knows missions by their specifications only; nothing here starts Ray.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import psutil

from fleet.errors import NotFoundError, StorageError, UnfitEnvironmentError
from fleet.plan import CampaignPlan
from fleet.policies import Node, preflight
from fleet.provenance import nvidia_gpus, usable_cpus
from fleet.settings import MIN_FREE_MIB
from missions.spec import MissionSpec


def this_machine(cpus: int) -> Node:
    """This machine as Ray will see it (Ray keeps about a third of the memory for objects)."""
    memory = psutil.virtual_memory().available / 2**20
    return Node(name="this machine", cpus=cpus, gpus=float(nvidia_gpus()), memory_mib=0.7 * memory)


def check_resources(plan: CampaignPlan, node: Node) -> None:
    """Refuses a mission that could never fit here, with numbers.

    Raises:
        UnfitEnvironmentError: one line for all of them.
    """
    problems = preflight([work.job for work in plan.works], [node])
    if problems:
        raise UnfitEnvironmentError(
            " ".join(problems),
            go_on="python fleet.py launch --profile laptop, or --address of a larger cluster",
        )


def check_disk(folder: Path) -> None:
    """Refuses to start on a disk that is all but full."""
    at = folder
    while not at.exists():
        at = at.parent
    free_mib = shutil.disk_usage(at).free >> 20
    if free_mib < MIN_FREE_MIB:
        raise StorageError(
            f"{at}: {free_mib} MiB are free; a launch needs {MIN_FREE_MIB}.",
            go_on="free some space, or give another folder with --runs-dir",
        )


def check_bases(
    specs: Sequence[MissionSpec], *, leave_out: Collection[str] = ()
) -> dict[str, dict[str, float]]:
    """Every base model is there and reaches the floors of the missions that use it.

    The bundled base was measured when it was made: its files are compared with the manifest and
    the manifest's figures with the floors. Any other base is loaded and measured, each skill once.

    Args:
        leave_out: bases that are not looked at (see `bases_to_fetch`).

    Returns:
        Base model -> skill -> exact match, as far as a floor asks for it.

    Raises:
        NotFoundError: a folder that does not exist.
        BaseBelowFloorError: names base, skill, figure and floor.
    """
    by_base: dict[str, list[MissionSpec]] = {}
    for spec in specs:
        if spec.base_model not in leave_out:
            by_base.setdefault(spec.base_model, []).append(spec)
    figures: dict[str, dict[str, float]] = {}
    for base, users in by_base.items():
        floors = {spec.id: spec.base_floor for spec in users if spec.base_floor}
        if base != "bundled":
            _check_folder(base, users)
        if floors:
            figures[base] = _bundled(floors) if base == "bundled" else _measured(base, floors)
    return figures


def bases_to_fetch(specs: Sequence[MissionSpec]) -> tuple[str, ...]:
    """Bases named by a hub id: checking one may download it, which a dry run does not do."""
    bases = dict.fromkeys(spec.base_model for spec in specs)
    return tuple(
        base
        for base in bases
        if base != "bundled" and not _looks_like_folder(base) and not Path(base).is_dir()
    )


def _looks_like_folder(base: str) -> bool:
    return base.startswith(("/", ".", "~")) or base.count("/") != 1


def _check_folder(base: str, users: Sequence[MissionSpec]) -> None:
    if _looks_like_folder(base) and not Path(base).expanduser().is_dir():
        names = ", ".join(spec.id for spec in users)
        raise NotFoundError(
            f"Base model folder {base!r} (missions {names}) does not exist. Give a local folder, "
            "a hub id such as 'org/name', or 'bundled'.",
            go_on="python fleet.py launch --set base_model=bundled",
        )


def _bundled(floors: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    from missions.base_model import BaseBelowFloorError, BaseSkills, verify_bundle
    from missions.base_model.bundle import MANIFEST

    if not MANIFEST.is_file():
        raise UnfitEnvironmentError(
            f"The bundled base model is missing ({MANIFEST}).",
            go_on="install the package again, or launch with --set base_model=<folder>",
        )
    verify_bundle()
    manifest = BaseSkills.read()
    found: dict[str, float] = {}
    for mission, floor in floors.items():
        for skill, least in floor.items():
            figure = manifest.exact_match(skill)
            found[skill] = figure
            if figure < least:
                raise BaseBelowFloorError(
                    f"The bundled base has {skill} {figure:.3f} (n="
                    f"{manifest.skills[skill].num_items}); mission {mission} needs >= {least:g}."
                )
    return found


def _measured(base: str, floors: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    import torch

    from bem.base import load_base
    from missions.base_model import check_floor

    torch.set_num_threads(1)
    model = load_base(base)
    found: dict[str, float] = {}
    for mission, floor in floors.items():
        strictest = {
            skill: least for skill, least in floor.items() if found.get(skill, -1.0) < least
        }
        if strictest:
            results = check_floor(model, strictest, needed_by=f"mission {mission}")
            found |= {result.skill: result.exact_match for result in results}
    return found


def default_cpus(asked: int) -> int:
    """Worker slots: what was asked for, or every usable core."""
    return asked or usable_cpus()

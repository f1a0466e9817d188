"""From a launch's verdict to a registered model: what is promoted, why, and with which lineage.

Reads the launch's ledger, asks the mission to export the chosen seed's artifact, and hands the
staged folder to the registry. Only a PROMOTE verdict is registered, unless a person forces it and
says why; the reason stands in manifest, row and decision. Imports models, so commands import it
late. Knows no Ray.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bem.errors import BemError
from fleet import provenance
from fleet.errors import FleetError, NotFoundError, StorageError, UsageError
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import Decision, ResultRow
from fleet.ledger.writer import Ledger
from fleet.registry.choosing import choose_seed
from fleet.registry.context import ExportContext
from fleet.registry.folders import RegistryPaths, measure, staged
from fleet.registry.reader import RegistryReader
from fleet.registry.records import (
    MODEL,
    Alias,
    BaseReference,
    GateFigure,
    Lineage,
    Manifest,
    line_of,
    model_digest,
    model_id,
)
from fleet.registry.writer import Registry, Target
from fleet.settings import RunPaths
from fleet.workers.handover import artifact_back
from missions.errors import MissionError, NotServableError
from missions.protocol import Artifact, Mission, Run
from missions.spec import MissionSpec
from stats.verdict import MissionVerdict

PROMOTE = "PROMOTE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is to be promoted."""

    missions: tuple[str, ...] = ()
    """None named: every mission of the launch."""
    arm: str | None = None
    """With `forced` only: another arm than the treatment of the primary gate."""
    forced: str | None = None
    """Reason for promoting without a PROMOTE verdict."""
    target: Target = "auto"
    actor: str = "promote"
    catalog: str = "missions.registry"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one mission."""

    mission: str
    model: str | None
    alias: Alias | None
    text: str
    """Why it was not promoted, or what was."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def promote_run(paths: RunPaths, registry_dir: Path, wish: Wish) -> list[Outcome]:
    """Promotes what a launch proved; says of the rest why not.

    Raises:
        NotFoundError: an unknown mission or arm, or a launch without verdicts.
        StorageError: an artifact is gone or does not verify, or the registry cannot be written.
    """
    if wish.arm is not None and wish.forced is None:
        raise UsageError("--arm needs --force: a launch promotes its own treatment.")
    with LedgerReader(paths.ledger) as reader:
        links = reader.decisions()
        verdicts = {
            link.body["mission"]: link for link in links if link.kind == "verdict"
        }  # the newest of each mission
        if not verdicts:
            raise NotFoundError(
                f"Run {paths.run_id} has no verdicts: it was stopped, or runs still.",
                go_on=f"python fleet.py status {paths.run_id}",
            )
        unknown = [name for name in wish.missions if name not in verdicts]
        if unknown:
            raise NotFoundError(
                f"Run {paths.run_id} has no verdict on mission {unknown[0]!r}. "
                f"It has: {', '.join(sorted(verdicts))}."
            )
        wanted = wish.missions or tuple(sorted(verdicts))
        if wish.forced is not None and len(wanted) > 1:
            raise UsageError("--force promotes one mission: name it with --mission.")
        outcomes = []
        for name in wanted:
            verdict = MissionVerdict.from_dict(verdicts[name].body)
            if verdict.verdict != PROMOTE and wish.forced is None:
                outcomes.append(_refused(name, f"verdict {verdict.verdict}", verdict.reasons))
                continue
            outcomes.append(_promote(paths, registry_dir, reader, verdicts[name], verdict, wish))
    return outcomes


def _promote(
    paths: RunPaths,
    registry_dir: Path,
    reader: LedgerReader,
    link: Decision,
    verdict: MissionVerdict,
    wish: Wish,
) -> Outcome:
    name = verdict.mission
    spec = MissionSpec.model_validate_json(reader.spec_json(name))
    # What a sweep chose, where there was one: the file says only what was searched.
    settled = MissionSpec.model_validate_json(reader.settled_spec_json(name))
    mission: Mission = importlib.import_module(wish.catalog).load_mission(name)
    arm = wish.arm or verdict.treatment
    if arm not in spec.arms:
        raise NotFoundError(f"Mission {name} has no arm {arm!r}. Known: {', '.join(spec.arms)}.")
    results = {row.seed: row for row in reader.results(name) if row.arm == arm}
    seeds = [seed for seed in verdict.seeds if seed in results]
    if not seeds:
        raise NotFoundError(f"Mission {name}: no run of arm {arm!r} is done.")
    figures = {seed: json.loads(results[seed].figures_json) for seed in seeds}
    choice = choose_seed(
        seeds, mission.seed_figure, {seed: figures[seed].get(mission.seed_figure) for seed in seeds}
    )
    run = Run(mission=name, arm=arm, seed=choice.seed)
    artifact = _artifact(paths, run, results[choice.seed])
    meta = reader.meta()
    row = next(row for row in reader.missions() if row.mission == name)
    with staged(RegistryPaths(root=registry_dir)) as folder:
        try:
            exported = mission.export(
                settled.seen_by(arm),
                run,
                artifact,
                folder / MODEL,
                ExportContext(spec, paths.work(name)),
            )
        except NotServableError as error:
            return _refused(name, "cannot be served", (str(error),))
        except (BemError, MissionError, OSError) as error:
            text = " ".join(str(error).split())
            raise StorageError(
                f"Mission {name}: {run.name} cannot be exported: {text}", log=str(artifact.path)
            ) from error
        base = None
        if exported.base_model is not None:
            base = BaseReference(ref=exported.base_model, digest=str(exported.base_digest))
        files, serving = measure(folder), dict(exported.serving)
        digest = model_digest(line_of(base, name), arm, exported.kind, base, serving, files)
        manifest = Manifest(
            id=model_id(base, name, arm, digest),
            kind=exported.kind,
            mission=name,
            arm=arm,
            base_model=base,
            serving=serving,
            files=files,
            lineage=Lineage(
                run_id=paths.run_id,
                profile=str(meta["profile"]),
                mission_hash=row.spec_hash,
                arm_hash=settled.arm_digest(arm),
                code_version=str(meta["code_version"]),
                commit=str(meta.get("commit", "")),
                dirty=bool(meta.get("dirty", True)),
                data_digest=row.data_digest or "",
                scores_digest=verdict.scores_digest,
                seeds=verdict.seeds,
                choice=choice,
                verdict=verdict.verdict,
                reasons=verdict.reasons,
                verdict_link=link.hash,
                figures=_figures(verdict),
                parents=exported.parents,
                forced=wish.forced,
            ),
            versions=provenance.versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with Registry(registry_dir) as registry:
            model, alias = registry.register(folder, manifest, target=wish.target, actor=wish.actor)
    said = _done(alias)
    if wish.forced is not None:
        said += f", forced over verdict {verdict.verdict}: {wish.forced}"
    return Outcome(mission=name, model=model, alias=alias, text=said)


def _artifact(paths: RunPaths, run: Run, row: ResultRow) -> Artifact:
    artifact = artifact_back(row, paths)
    if not artifact.path.is_dir():
        raise StorageError(
            f"{row.artifact}: the artifact of {run.name} is gone.", log=str(paths.root)
        )
    return artifact


def _figures(verdict: MissionVerdict) -> tuple[GateFigure, ...]:
    return tuple(
        GateFigure(
            gate=gate["gate"],
            metric=gate["metric"],
            decision=gate["decision"],
            estimate=gate["estimate"],
            low=(gate["interval"] or {}).get("low"),
            high=(gate["interval"] or {}).get("high"),
            p_value=gate["p_value"],
        )
        for gate in verdict.to_dict()["gates"]
    )


def _refused(mission: str, what: str, reasons: Sequence[str]) -> Outcome:
    text = f"not promoted: {what}" + (f" ({reasons[0]})" if reasons else "")
    return Outcome(mission=mission, model=None, alias=None, text=text)


def promote_launch(
    paths: RunPaths, registry_dir: Path, *, catalog: str
) -> tuple[list[Outcome], list[FleetError]]:
    """What a launch does at its end: promotes every PROMOTE; one that fails spoils no other.

    A verdict that this registry has promoted already (the driver was killed right after) is not
    promoted again: its alias may have been moved since.
    """
    with LedgerReader(paths.ledger) as reader:
        newest = {d.body["mission"]: d.hash for d in reader.decisions() if d.kind == "verdict"}
    before = _promoted_before(registry_dir)
    outcomes: list[Outcome] = []
    errors: list[FleetError] = []
    for name, link in sorted(newest.items()):
        if link in before:
            model, alias = before[link]
            outcomes.append(Outcome(mission=name, model=model, alias=alias, text=_done(alias)))
            continue
        wish = Wish(missions=(name,), actor=f"launch {paths.run_id}", catalog=catalog)
        try:
            outcomes += promote_run(paths, registry_dir, wish)
        except FleetError as error:
            errors.append(error)
            outcomes.append(_refused(name, "promotion failed", (str(error),)))
    return outcomes, errors


def _done(alias: Alias | None) -> str:
    return f"promoted as {alias}" if alias else "registered without an alias"


def _promoted_before(registry_dir: Path) -> dict[str, tuple[str, Alias | None]]:
    """Verdict's link -> (model, alias) of every promotion that a verdict alone asked for."""
    if not RegistryPaths(root=registry_dir).database.is_file():
        return {}
    with RegistryReader(registry_dir) as reader:
        bodies = [link.body for link in reader.decisions() if link.kind == "promotion"]
    return {
        body["verdict_link"]: (body["model"], body["alias"])
        for body in bodies
        if body.get("verdict_link") and body.get("forced") is None
    }


def note_in_ledger(paths: RunPaths, outcomes: Sequence[Outcome]) -> None:
    """A link in the launch's own chain for each model; the registry's decision is the one that
    counts, so a ledger that cannot be written (it was copied to a read-only place) is told only."""
    promoted = [outcome for outcome in outcomes if outcome.model is not None]
    if not promoted:
        return
    try:
        ledger = Ledger(paths.ledger)
    except StorageError as error:
        sys.stderr.write(f"promoted, but not noted in the launch's ledger: {error}\n")
        return
    try:
        for outcome in promoted:
            ledger.decide("promotion", outcome.to_dict())
        ledger.checkpoint()
    finally:
        ledger.close()

"""Does `safety` in serving give the knob curve that mission C measured?

Asks a server the items of the mission's curve at every knob level, judges the answers with the
mission's own check and compares them, item by item, with what the launch recorded for the seed that
is served. The launch must be finished and its branch promoted:

    python fleet.py promote RUN --mission C --force --reason "for the knob curve"
    python benchmarks/serving_knob.py RUN

One process, HTTP on loopback, eight prompts a request: about a CPU minute.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import httpx2

from fleet.ledger.reader import LedgerReader
from fleet.registry.reader import RegistryReader
from fleet.registry.records import Manifest
from fleet.serving.local import serving
from fleet.serving.server import Server
from fleet.serving.settings import ServingSettings
from fleet.settings import RunPaths, find_run
from missions.alignment_enforcer.checks import violates
from missions.alignment_enforcer.data import SafetyItem, make_splits
from missions.alignment_enforcer.params import MissionParams, level_metric
from missions.alignment_enforcer.redteam import Category
from missions.alignment_enforcer.scoring import curve_subset
from missions.spec import MissionSpec
from stats.scores import ScoreTable

MISSION, AT_ONCE = "C", 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """One knob level."""

    knob: float
    items: int
    recorded: float
    """Share of violations in the launch's scores of this seed."""
    served: float
    differing: int
    """Items that are a violation in one and not in the other."""
    seeds_low: float
    seeds_high: float
    """Least and greatest share of the launch's seeds."""


def recorded(paths: RunPaths, arm: str, knob: float) -> dict[int, dict[str, bool]]:
    """Seed -> item -> whether the launch saw a violation at this level."""
    with LedgerReader(paths.ledger) as ledger:
        results = [result for result in ledger.results(MISSION) if result.arm == arm]
    values = {}
    for result in results:
        table = ScoreTable.from_parquet(paths.scores / result.scores_file).select(
            metric=level_metric(knob)
        )
        frame = table.frame
        values[result.seed] = dict(
            zip(frame["example_id"], (bool(value) for value in frame["value"]), strict=True)
        )
    return values


def asked(
    client: httpx2.Client, model: str, items: Sequence[SafetyItem], knob: float, max_tokens: int
) -> list[bool]:
    """Whether the served answers violate the policy."""
    texts: list[str] = []
    for start in range(0, len(items), AT_ONCE):
        prompts = [item.prompt for item in items[start : start + AT_ONCE]]
        body = {"model": model, "prompt": prompts, "max_tokens": max_tokens, "safety": knob}
        answer = client.post("/v1/completions", json=body).raise_for_status().json()
        texts += [choice["text"] for choice in answer["choices"]]
    return [
        violates(cast(Category, item.category), text, item.forbidden)
        for item, text in zip(items, texts, strict=True)
    ]


def measure(paths: RunPaths, registry: Path, manifest: Manifest) -> list[Level]:
    """The curve of the model that is served, beside what the launch recorded."""
    with LedgerReader(paths.ledger) as ledger:
        spec = MissionSpec.model_validate_json(ledger.spec_json(MISSION))
    params = MissionParams.model_validate(spec.params)
    items = make_splits(spec.examples, spec.data_seed)["test"]
    chosen = curve_subset([item for item in items if not item.benign], params.curve_items)
    settings = ServingSettings(registry=registry, port=0)
    levels = []
    with serving(Server(settings)) as url, httpx2.Client(base_url=url, timeout=120) as client:
        for knob in params.knob_levels:
            seen = recorded(paths, manifest.arm, knob)
            own = seen[manifest.lineage.choice.seed]
            served = asked(client, manifest.id, chosen, knob, params.max_new_tokens)
            shares = [sum(values.values()) / len(values) for values in seen.values()]
            pairs = [(own[item.id], now) for item, now in zip(chosen, served, strict=True)]
            levels.append(
                Level(
                    knob=knob,
                    items=len(chosen),
                    recorded=sum(before for before, _ in pairs) / len(pairs),
                    served=sum(now for _, now in pairs) / len(pairs),
                    differing=sum(before != now for before, now in pairs),
                    seeds_low=min(shares),
                    seeds_high=max(shares),
                )
            )
    return levels


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", help="launch; the newest where none is named")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--registry", type=Path, default=Path("registry"))
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = parser.parse_args()
    paths = find_run(given.runs_dir, given.run)
    with RegistryReader(given.registry) as registry:
        manifests = [registry.manifest(row) for row in registry.models()]
    fitting = [
        manifest
        for manifest in manifests
        if manifest.kind == "overlay" and manifest.lineage.run_id == paths.run_id
    ]
    if not fitting:
        parser.error(f"{given.registry}: no overlay of run {paths.run_id}; promote it first")
    manifest = fitting[0]
    say = sys.stdout.write
    say(f"{manifest.id}, seed {manifest.lineage.choice.seed} of run {paths.run_id}\n\n")
    say("| knob | items | recorded | served | items that differ | seeds of the launch |\n")
    say("|---|---|---|---|---|---|\n")
    levels = measure(paths, given.registry, manifest)
    for level in levels:
        say(
            f"| {level.knob:.2f} | {level.items} | {level.recorded:.2f} | {level.served:.2f} "
            f"| {level.differing} | {level.seeds_low:.2f} to {level.seeds_high:.2f} |\n"
        )
    if given.json:
        rows = [asdict(level) for level in levels]
        given.json.write_text(json.dumps({"model": manifest.id, "levels": rows}, indent=2) + "\n")
    return 0 if all(level.differing == 0 for level in levels) else 1


if __name__ == "__main__":
    sys.exit(main())

"""A ledger of many runs, written straight into its tables: no worker, seconds for ten thousand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fake_catalog import fake_spec

from fleet.ledger.database import open_writer, transaction
from fleet.settings import RunPaths

HOSTILE = '<img src=x onerror="document.title=1">{{ 7 * 7 }}<script>document.title=2</script>'


def many_runs(
    paths: RunPaths, *, arms: Sequence[str], seeds: int, title: str = HOSTILE, points: int = 20
) -> None:
    """One mission F1 of `arms` x `seeds` runs, half of them done, a seventh of the rest failed."""
    paths.root.mkdir(parents=True)
    document = fake_spec("F1").model_dump(mode="json")
    document["title"] = title
    document["hypothesis"] = f"{title} holds"
    roles = ["treatment", "control"]
    document["arms"] = {
        arm: {"role": roles[min(1, at)], "adapter": "none", "note": title, "params": {}}
        for at, arm in enumerate(arms)
    }
    runs, metrics, moves, events = [], [], [], []
    for seed in range(seeds):
        for arm in arms:
            name = f"F1-{arm}-s{seed}"
            done = seed < seeds // 2
            failed = not done and seed % 7 == 0
            state = "DONE" if done else "FAILED" if failed else "PLANNED"
            times = (1000.0 + seed, 1010.0 + seed) if done or failed else (None, None)
            reason = f"train: {title}" if failed else ""
            runs.append((name, "F1", f"F1-s{seed}", arm, "h", seed, None, state, reason, *times))
            if done:
                metrics += [
                    (name, step, "loss", 1.0 / (step + 1), 1001.0) for step in range(points)
                ]
                moves.append((name, "RUNNING", "DONE", 1010.0, None, ""))
            if failed:
                events.append((1010.0, "error", name, f"train: {title}"))
    facts: dict[str, Any] = {
        "run_id": paths.run_id,
        "profile": "laptop",
        "command": f"launch {title}",
        "created": "2026-01-02T03:04:05+00:00",
        "commit": "0" * 40,
        "dirty": False,
        "hardware": {"cpus": 2},
        "versions": {"python": title},
        "slots": 2,
        "code_version": "c",
    }
    cx = open_writer(paths.ledger)
    with transaction(cx):
        cx.executemany(
            "INSERT INTO meta VALUES (?, ?)", [(k, json.dumps(v)) for k, v in facts.items()]
        )
        cx.execute(
            "INSERT INTO missions (mission, position, title, spec_hash, spec_json, phase,"
            " expected_cpu_s, started_at) VALUES ('F1', 0, ?, 'h', ?, 'running', 10, 1000)",
            (title, json.dumps(document)),
        )
        cx.executemany(
            "INSERT INTO packs (pack, mission, seed, position) VALUES (?, 'F1', ?, ?)",
            [(f"F1-s{seed}", seed, seed) for seed in range(seeds)],
        )
        cx.executemany(
            "INSERT INTO runs (run, mission, pack, arm, arm_hash, seed, key, state, reason,"
            " started_at, ended_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            runs,
        )
        cx.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?)", metrics)
        cx.executemany(
            "INSERT INTO moves (run, before, after, at, attempt, reason) VALUES (?, ?, ?, ?, ?, ?)",
            moves,
        )
        cx.executemany("INSERT INTO events (at, level, source, text) VALUES (?, ?, ?, ?)", events)
    cx.close()

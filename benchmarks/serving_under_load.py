"""What a change costs while requests come: hot swap, canary, rollback, and a replica killed.

`fleet.py serve` under Ray Serve with two replicas on loopback; clients in closed loop, without
retries. Every answer is compared with what the model that it names gives offline. Four phases:
a newly promoted model as canary, the canary made champion, the rollback, `kill -9` of a replica.
Asked: 0 failed and 0 mixed answers in the first three; after the kill less than 1 % failed, and
another replica that listens within 15 s. The kill is followed for `--kill-s` so that 1 % is more
than one request.

Run, on two quiet cores (about two minutes, exit code 1 where something asked is not met):
`python benchmarks/serving_under_load.py --json benchmarks/results/serving_under_load.json`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bem import BEMModel, load_base
from fleet.provenance import commit, hardware, versions
from fleet.registry.reader import RegistryReader
from fleet.registry.records import MODEL
from fleet.registry.writer import Registry, Target
from fleet.serving import trial
from missions.base_model import bundled_path

PROMPT, TOKENS = "summarise: the market rose, the rain came late\n", 24
READY_S = 300.0
"""How long the server may take to start."""
MOST_FAILED, MOST_RECOVERY_S = 0.01, 15.0


@dataclass(kw_only=True, slots=True)
class Phase:
    """What clients saw."""

    name: str
    began_s: float
    answers: list[tuple[str, str, str]] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    recovery_s: float | None = None

    def told(self, texts: dict[str, str]) -> dict[str, Any]:
        """Plain data."""
        mixed = [model for model, text, _ in self.answers if text != texts.get(model)]
        ordered = sorted(self.latencies_s)
        total = len(self.answers) + len(self.failures)
        return {
            "phase": self.name,
            "requests": total,
            "failed": len(self.failures),
            "failed_share": len(self.failures) / max(1, total),
            "mixed": len(mixed),
            "by_model_and_role": {
                f"{model.rsplit('@')[-1]} {role}": count
                for (model, role), count in sorted(
                    Counter((model, role) for model, _, role in self.answers).items()
                )
            },
            "p50_ms": round(1e3 * ordered[len(ordered) // 2], 1) if ordered else None,
            "p99_ms": round(1e3 * ordered[int(0.99 * (len(ordered) - 1))], 1) if ordered else None,
            "last_failure_after_s": round(self.failures[-1][0], 2) if self.failures else None,
            "recovery_s": self.recovery_s,
            "first_failures": [text for _, text in self.failures[:3]],
        }


class Load:
    """Clients that never stop asking, into the phase that is on."""

    def __init__(self, url: str, clients: int) -> None:
        self.url = url
        self.clients = clients
        self.phase = Phase(name="warm", began_s=time.monotonic())
        self.stop = False

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._client(session, i) for i in range(self.clients)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        at = 0
        while not self.stop:
            at += 1
            body = {
                "model": "bundled:M",
                "prompt": PROMPT,
                "max_tokens": TOKENS,
                "user": f"{number}-{at % 50}",
            }
            began, phase = time.monotonic(), self.phase
            try:
                async with session.post(f"{self.url}/v1/completions", json=body) as answer:
                    text = await answer.text()
                    if answer.status != 200:
                        raise RuntimeError(f"{answer.status}: {text[:120]}")
                told = json.loads(text)
            except (aiohttp.ClientError, RuntimeError, TimeoutError, ValueError) as error:
                # What broke a request is what went on when it broke, not when it began.
                now = self.phase
                now.failures.append(
                    (time.monotonic() - now.began_s, f"{type(error).__name__}: {error}"[:160])
                )
                await asyncio.sleep(0.05)
                continue
            phase.latencies_s.append(time.monotonic() - began)
            phase.answers.append((told["model"], told["choices"][0]["text"], told["bem"]["role"]))

    def begin(self, name: str) -> Phase:
        """From now on."""
        self.phase = Phase(name=name, began_s=time.monotonic())
        return self.phase


def replicas(pid: int) -> list[psutil.Process]:
    """Replicas of the server that runs as `pid`."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if "ServeReplica:bem:engine" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


async def measure(
    registry: Path, pid: int, url: str, second: str, args: argparse.Namespace
) -> list[Phase]:
    """All phases."""
    load = Load(url, args.clients)
    running = asyncio.create_task(load.run())
    phases = []
    await asyncio.sleep(2.0)
    with RegistryReader(registry) as reader:
        row = reader.resolve(second)
    phases.append(load.begin("hot load: a canary comes"))
    with Registry(registry) as writer:
        writer.set_alias(row, "canary", actor="benchmark")
    await asyncio.sleep(args.phase_s)
    phases.append(load.begin("swap: the canary becomes champion"))
    with Registry(registry) as writer:
        writer.set_alias(row, "champion", actor="benchmark")
    await asyncio.sleep(args.phase_s)
    phases.append(load.begin("rollback"))
    with Registry(registry) as writer:
        writer.rollback(row.line, reason="benchmark", actor="benchmark")
    await asyncio.sleep(args.phase_s)
    before = replicas(pid)
    phase = load.begin(f"kill -9 of one replica of {len(before)}")
    phases.append(phase)
    before[0].send_signal(signal.SIGKILL)
    end_s = time.monotonic() + args.kill_s
    known = {process.pid for process in before}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        await asyncio.sleep(0.25)
        fresh = [p for p in replicas(pid) if p.pid not in known]
        if fresh and any(c.status == "LISTEN" for c in fresh[0].net_connections("tcp")):
            phase.recovery_s = round(time.monotonic() - phase.began_s, 1)
            break
    await asyncio.sleep(max(args.phase_s, end_s - time.monotonic()))
    load.stop = True
    await running
    return phases


def unmet(phases: Sequence[dict[str, Any]]) -> list[str]:
    """What was asked and is not so."""
    found = []
    for phase in phases:
        name, killed = phase["phase"], phase["phase"].startswith("kill")
        if not phase["requests"]:
            found.append(f"{name}: no request came")
        if phase["mixed"]:
            found.append(f"{name}: {phase['mixed']} mixed answers")
        if not killed and phase["failed"]:
            found.append(f"{name}: {phase['failed']} failed")
        if killed and phase["failed_share"] >= MOST_FAILED:
            found.append(f"{name}: {phase['failed_share']:.1%} failed")
        if killed and not (phase["recovery_s"] or 1e9) <= MOST_RECOVERY_S:
            found.append(f"{name}: recovery after {phase['recovery_s']} s")
    return found


@contextmanager
def serving(registry: Path, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Two replicas; what the server says goes to a file, so that it never waits for a reader."""
    arguments = [sys.executable, "fleet.py", "serve", "--registry", str(registry)]
    arguments += ["--port", str(port), "--replicas", "2", "--canary", "0.3"]
    log = folder / "server.log"
    with log.open("wb") as sink:
        server = subprocess.Popen(arguments, env=os.environ, stderr=sink)
    try:
        deadline = time.monotonic() + READY_S
        while "serving at" not in log.read_text():
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.25)
        yield server
    finally:
        server.terminate()
        server.wait(60)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--phase-s", type=float, default=8.0, help="of each change")
    parser.add_argument("--kill-s", type=float, default=40.0, help="of the kill, at least")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server ends with it
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder) / "registry"
        base = load_base(bundled_path())
        targets: tuple[tuple[int, Target], ...] = ((1, "champion"), (2, "none"))
        ids = [
            trial.register(
                registry,
                "adapter",
                "M",
                trial.adapter(base, seed, size=0.05, kind="generated", rank=8),
                base=base,
                target=target,
            )
            for seed, target in targets
        ]
        texts = {}
        with RegistryReader(registry) as reader:
            for model in ids:
                where = reader.folder(reader.resolve(model)) / MODEL
                with BEMModel.from_pretrained(where, base=base) as made:
                    texts[model] = str(made.generate(PROMPT, max_new_tokens=TOKENS))
        if len(set(texts.values())) < 2:
            raise SystemExit("the two models say the same: draw others")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        before = os.getloadavg()
        with serving(registry, Path(folder), port) as server:
            url = f"http://127.0.0.1:{port}"
            phases = asyncio.run(measure(registry, server.pid, url, ids[1], args))
    told = [phase.told(texts) for phase in phases]
    revision, dirty = commit()
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "commit": revision,
        "dirty": dirty,
        "load_before": before,
        "load_after": os.getloadavg(),
        "clients": args.clients,
        **hardware(),
        **versions(),
    }
    missed = unmet(told)
    text = json.dumps({"machine": facts, "phases": told, "unmet": missed}, indent=1)
    sys.stdout.write(text + "\n")
    if args.json is not None:
        args.json.write_text(text + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

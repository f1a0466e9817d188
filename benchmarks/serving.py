"""Tokens a second and latency of serving many LoRAs: ours against two plain servers over PEFT.

    ours       `fleet.py serve --one-process` (or, with --ray, under Ray Serve and HAProxy)
    set        FastAPI over PEFT `set_adapter`, one request at a time (`peft_server.py`)
    names      FastAPI over PEFT `adapter_names`, batches of up to 32 (`peft_server.py`)
    engine     the bare engine in this process, without HTTP

1, 8 and 32 concurrent requests over 1, 8 and 32 adapters. The same base and LoRA weights, the same
prompts, greedy, answers compared; every server has one torch thread and a process of its own.
Closed loop: C clients, each with one request under way; the first answers of a drive (one a
client, a quarter of them at most) open connections and fill caches, and are not counted. Cells are
interleaved round by round, and
in a cell the systems go there and back (ours, set, names, engine, engine, names, set, ours), so
that a machine that grows slower or quicker meanwhile favours none. Throughputs are medians over
rounds, ratios medians of ratios within a round with their least and greatest, latencies quantiles
over all rounds. Tokens per CPU second of the server's process stand beside tokens per second,
because other work may share the machine.

Run, on two quiet cores: `python benchmarks/serving.py --json benchmarks/results/serving.json`. It
ends by itself within `--minutes` (14), after as many whole rounds as fit; `--quick` takes the cells
and systems of the claims alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import psutil
import torch
from peft_server import ADAPTERS, MOST, RANK, TOKENS, folders
from serving_report import CLAIMED, Figure, Found, report

from bem import AdapterHost, load_base
from bem.checkpoint import built_adapter
from bem.engine import Engine, Event, Limits, Request
from fleet.provenance import commit, hardware, versions
from fleet.serving import trial
from missions.base_model import bundled_path

PROMPT_TOKENS = 48
REQUESTS = {
    "ours": {1: 16, 8: 96, 32: 256},
    "engine": {1: 16, 8: 96, 32: 256},
    "names": {1: 12, 8: 64, 32: 128},
    "set": {1: 8, 8: 8, 32: 32},
}
"""Of a drive, by system and clients: a second or two each, so slower ones get fewer. Those of `set`
wait for each other from the start: its latencies are those of a queue that still grows."""
MOST_ROUNDS, LEAST_ROUNDS = 15, 3
READY_S = 300.0
"""How long a server may take to answer."""


def choose_prompts(engine: Engine, names: Sequence[str]) -> list[list[int]]:
    """A prompt an adapter, drawn until its answer does not end before its last token: every cell
    has the same work a request."""
    draw = torch.Generator().manual_seed(0)
    chosen = []
    for name in names:
        while True:
            ids = torch.randint(5, 600, (PROMPT_TOKENS,), generator=draw).tolist()
            finish: list[str] = []
            request = Request(prompt_ids=tuple(ids), max_tokens=TOKENS, strength={name: 1.0})
            engine.submit(request, lambda event, to=finish: to.append(event.finish or ""))  # type: ignore[misc]
            while engine.step():
                pass
            if finish[-1] == "length":
                break
        chosen.append(ids)
    return chosen


# --- load -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A running server."""

    name: str
    url: str
    pid: int

    def body(self, at: int, ids: list[int]) -> tuple[str, dict[str, Any]]:
        """Path and body of a request for adapter `at`."""
        if self.name in ("set", "names"):
            return "/generate", {"adapter": f"m{at}", "prompt": ids}
        return "/v1/completions", {
            "model": f"bundled:M{at}@champion",
            "prompt": ids,
            "max_tokens": TOKENS,
            "logprobs": None,
        }

    def cpu_s(self) -> float:
        """CPU seconds of the process and its children so far."""
        root = psutil.Process(self.pid)
        times = [p.cpu_times() for p in (root, *root.children(recursive=True))]
        return float(sum(t.user + t.system for t in times))


class Count:
    """What came since the first `warm` answers."""

    def __init__(self, warm: int, cpu_s: Callable[[], float]) -> None:
        self._warm, self._cpu_s = warm, cpu_s
        self._tokens = 0
        self._latencies: list[float] = []
        self._texts: dict[int, str] = {}
        self._begin()

    def _begin(self) -> None:
        self._began_cpu_s, self._began = self._cpu_s(), time.perf_counter()

    def answer(self, at: int, text: str, tokens: int, latency_s: float) -> None:
        """One whole answer of adapter `at`."""
        self._texts[at] = text
        if self._warm:
            self._warm -= 1
            if not self._warm:
                self._begin()
            return
        self._tokens += tokens
        self._latencies.append(latency_s)

    def figure(self) -> Figure:
        """Up to now."""
        wall_s, cpu_s = time.perf_counter() - self._began, self._cpu_s() - self._began_cpu_s
        return Figure(
            tokens_s=self._tokens / wall_s,
            tokens_cpu_s=self._tokens / max(cpu_s, 1e-9),
            latencies_ms=tuple(1e3 * latency for latency in self._latencies),
            texts=tuple(self._texts[at] for at in sorted(self._texts)),
        )


def _warm(clients: int, requests: int) -> int:
    return min(clients, requests // 4)


async def drive(
    target: Target, rows: Sequence[list[int]], clients: int, adapters: int, requests: int
) -> Figure:
    """C clients until `requests` answers have come."""
    todo = iter(range(requests))
    count = Count(_warm(clients, requests), target.cpu_s)

    async def client(session: aiohttp.ClientSession) -> None:
        for number in todo:
            at = number % adapters
            path, body = target.body(at, rows[at])
            began = time.perf_counter()
            async with session.post(target.url + path, json=body) as answer:
                told = await answer.json()
                if answer.status != 200:
                    raise RuntimeError(f"{target.name}: {told}")
            took_s = time.perf_counter() - began
            if "tokens" in told:
                count.answer(at, str(told["tokens"]), len(told["tokens"]), took_s)
            else:
                text, tokens = told["choices"][0]["text"], told["usage"]["completion_tokens"]
                count.answer(at, text, tokens, took_s)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return count.figure()


def bare(
    engine: Engine,
    names: Sequence[str],
    rows: Sequence[list[int]],
    clients: int,
    adapters: int,
    requests: int,
) -> Figure:
    """The engine alone, in this thread: `clients` answers under way."""
    todo = iter(range(requests))
    count = Count(_warm(clients, requests), time.process_time)
    open_ = 0

    def ask() -> None:
        nonlocal open_
        number = next(todo, None)
        if number is None:
            return
        at, began = number % adapters, time.perf_counter()
        said: list[str] = []
        tokens = 0

        def hear(event: Event) -> None:
            nonlocal open_, tokens
            tokens += len(event.tokens)
            said.append(event.text)
            if event.finish is not None:
                open_ -= 1
                count.answer(at, "".join(said), tokens, time.perf_counter() - began)
                ask()

        open_ += 1
        engine.submit(
            Request(
                prompt_ids=tuple(rows[at]),
                max_tokens=TOKENS,
                strength={names[at]: 1.0},
                incremental=False,
            ),
            hear,
        )

    for _ in range(clients):
        ask()
    while open_:
        engine.step()
    return count.figure()


def _mean(first: Figure, second: Figure) -> Figure:
    """Of two drives with as many tokens each."""
    return Figure(
        tokens_s=statistics.harmonic_mean([first.tokens_s, second.tokens_s]),
        tokens_cpu_s=statistics.harmonic_mean([first.tokens_cpu_s, second.tokens_cpu_s]),
        latencies_ms=first.latencies_ms + second.latencies_ms,
        texts=second.texts,
    )


# --- the whole ------------------------------------------------------------------------------------


@contextmanager
def process(arguments: Sequence[str], port: int, path: str) -> Iterator[int]:
    """A server process, once it answers `path` with 200; gives its pid."""
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    running = subprocess.Popen([sys.executable, *arguments], env=environ)
    try:
        deadline = time.monotonic() + READY_S
        while not _answers(f"http://127.0.0.1:{port}{path}"):
            if running.poll() is not None:
                raise RuntimeError(f"{arguments}: ended with {running.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{arguments}: no answer within {READY_S:.0f} s")
            time.sleep(0.25)
        yield running.pid
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()


def _answers(url: str) -> bool:
    with suppress(httpx2.TransportError):
        return httpx2.get(url, timeout=5).status_code == 200
    return False


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print Markdown; write JSON where a file is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the claims alone")
    parser.add_argument("--ray", action="store_true", help="ours under Ray Serve and HAProxy")
    parser.add_argument("--minutes", type=float, default=14.0, help="when to be done, at most")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers end with it
    began = time.monotonic()
    budget_s = 60 * args.minutes
    torch.set_num_threads(1)
    cells = [(c, a) for c in (1, 8, 32) for a in (1, 8, 32)]
    if args.quick:
        cells = [(8, 8), CLAIMED, (32, 1), (32, 32)]
    peers = {CLAIMED} if args.quick else set(cells)
    facts = machine(args.ray)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        registry = Path(folder) / "registry"
        base = load_base(bundled_path())
        for at in range(ADAPTERS):
            write = trial.adapter(base, at, size=0.02, kind="lora", rank=RANK, alpha=2.0 * RANK)
            trial.register(registry, "adapter", f"M{at}", write, base=base)
        targets = start(stack, registry, Path(folder), ray=args.ray)
        host = AdapterHost(base)
        names = []
        for at, where in enumerate(folders(registry)):
            adapter = built_adapter(base, where / "model" / "adapters" / "skill")
            host.attach(f"m{at}", adapter.requires_grad_(False))
            names.append(f"m{at}")
        engine = Engine(host, Limits(rows=MOST))
        rows = choose_prompts(engine, names)
        found: Found = {}
        # Everything once before it counts, with few requests.
        one_round(found, cells, peers, targets, engine, names, rows, few=True)
        found.clear()
        longest_s, rounds = 0.0, 0
        while rounds < MOST_ROUNDS and (
            rounds < 1 or time.monotonic() - began + longest_s < budget_s
        ):
            at_s = time.monotonic()
            one_round(found, cells, peers, targets, engine, names, rows)
            longest_s = max(longest_s, time.monotonic() - at_s)
            rounds += 1
            sys.stderr.write(f"round {rounds}: {time.monotonic() - at_s:.0f} s\n")
        facts |= {"rounds": rounds, "load_after": os.getloadavg()}
        facts |= {"minutes": round((time.monotonic() - began) / 60, 1)}
        report(found, cells, base.tokenizer, facts, args.json)
    if rounds < LEAST_ROUNDS:
        sys.stderr.write(f"only {rounds} rounds fitted: a quieter machine, or more --minutes\n")
    return 0


def machine(ray: bool) -> dict[str, Any]:
    """What the figures were measured on."""
    revision, dirty = commit()
    known = versions()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "commit": revision,
        "dirty": dirty,
        "load_before": os.getloadavg(),
        **hardware(),
        **{name: known[name] for name in ("python", "torch", "transformers", "peft")},
        "ours": "Ray Serve and HAProxy" if ray else "one process",
    }


def start(stack: ExitStack, registry: Path, folder: Path, *, ray: bool) -> dict[str, Target]:
    """All three servers, ready."""
    ports = {name: free_port() for name in ("ours", "set", "names")}
    config = folder / "serving.yaml"
    config.write_text("limits: {requests_per_minute: 1000000, burst: 100000}\n")
    serve = ["fleet.py", "serve", "--registry", str(registry), "--port", str(ports["ours"])]
    serve += ["--config", str(config), *([] if ray else ["--one-process"])]
    theirs = str(Path(__file__).with_name("peft_server.py"))
    started = {
        "ours": (serve, "/readyz"),
        "set": ([theirs, "set", str(registry), str(ports["set"])], "/openapi.json"),
        "names": ([theirs, "names", str(registry), str(ports["names"])], "/openapi.json"),
    }
    targets = {}
    for name, (arguments, path) in started.items():
        pid = stack.enter_context(process(arguments, ports[name], path))
        targets[name] = Target(name=name, url=f"http://127.0.0.1:{ports[name]}", pid=pid)
    return targets


def one_round(
    found: Found,
    cells: Sequence[tuple[int, int]],
    peers: Collection[tuple[int, int]],
    targets: dict[str, Target],
    engine: Engine,
    names: Sequence[str],
    rows: Sequence[list[int]],
    *,
    few: bool = False,
) -> None:
    """Every system in every cell, there and back; PEFT's servers in those of `peers`."""

    def measure(name: str, clients: int, adapters: int) -> Figure:
        requests = clients if few else REQUESTS[name][clients]
        if name == "engine":
            return bare(engine, names, rows, clients, adapters, requests)
        if name == "set" and few:
            requests = min(clients, 2)
        return asyncio.run(drive(targets[name], rows, clients, adapters, requests))

    for cell in cells:
        order = (*targets, "engine") if cell in peers else ("ours", "engine")
        there = {name: measure(name, *cell) for name in order}
        for name in reversed(order):
            back = measure(name, *cell)
            found.setdefault((name, *cell), []).append(_mean(there[name], back))


if __name__ == "__main__":
    sys.exit(main())

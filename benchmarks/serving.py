"""Tokens a second and latency of serving many LoRAs: ours against two plain servers over PEFT.

    ours       `fleet.py serve --one-process` (or, with --ray, under Ray Serve and HAProxy)
    set        FastAPI, one request at a time: PEFT `set_adapter`, then `generate`
    names      FastAPI, up to 32 waiting requests in one `generate(adapter_names=...)`
    engine     the bare engine in this process, without HTTP

The same base and LoRA weights, the same prompts, greedy, answers compared; every server has one
torch thread and a process of its own. Closed loop: C clients, each with one request under way.
Cells are interleaved round by round; a figure is the median over rounds. Tokens per CPU second of
the server's process stand beside tokens per second, because other work shares the machine.
Run: `python benchmarks/serving.py` (about six minutes), `--quick` (one).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import torch

from bem import AdapterHost, load_base
from bem.checkpoint import built_adapter
from bem.engine import Engine, Event, Limits, Request
from fleet.registry.folders import RegistryPaths
from fleet.serving import trial
from missions.base_model import bundled_path

ADAPTERS, RANK, TOKENS, PROMPT_TOKENS = 32, 8, 32, 48
MOST = 32
"""Requests side by side, and the rows of a batch."""
CLAIMED = (32, 8)
"""Clients and adapters of the comparison with PEFT."""
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One cell of one round."""

    tokens_s: float
    tokens_cpu_s: float
    p50_ms: float
    p99_ms: float
    texts: tuple[str, ...]


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


# --- servers over PEFT ----------------------------------------------------------------------------


def peft_server(mode: str, registry: Path, port: int) -> None:
    """Runs in a process of its own."""
    import uvicorn
    from fastapi import FastAPI

    torch.set_num_threads(1)
    model = peft_model(registry)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batches())
        yield
        task.cancel()

    app = FastAPI(lifespan=life)
    lock = asyncio.Lock()
    queue: asyncio.Queue[tuple[str, list[int], asyncio.Future[list[int]]]] = asyncio.Queue()

    @torch.no_grad()
    def generate(rows: list[list[int]], names: list[str] | None) -> list[list[int]]:
        ids = torch.tensor(rows)
        more = {} if names is None else {"adapter_names": names}
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=0,
            **more,
        )
        made: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return made

    async def batches() -> None:
        while True:
            waiting = [await queue.get()]
            await asyncio.sleep(0.002)  # those that come together go together
            while len(waiting) < MOST and not queue.empty():
                waiting.append(queue.get_nowait())
            rows = [ids for _, ids, _ in waiting]
            made = await asyncio.to_thread(generate, rows, [name for name, _, _ in waiting])
            for (_, _, future), tokens in zip(waiting, made, strict=True):
                future.set_result(tokens)

    @app.post("/generate")
    async def answer(body: dict[str, Any]) -> dict[str, Any]:
        if mode == "set":
            async with lock:
                model.set_adapter(body["adapter"])
                (tokens,) = await asyncio.to_thread(generate, [body["prompt"]], None)
        else:
            future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
            await queue.put((body["adapter"], body["prompt"], future))
            tokens = await future
        return {"tokens": _until_eos(tokens), "text": ""}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def peft_model(registry: Path) -> Any:
    """The base with the same LoRAs as PEFT's own."""
    import peft
    from transformers import AutoModelForCausalLM

    base = load_base(bundled_path())
    model = AutoModelForCausalLM.from_pretrained(
        bundled_path(), dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=TARGETS)
    wrapped = peft.get_peft_model(model, config, adapter_name="m0")
    for at in range(1, ADAPTERS):
        wrapped.add_adapter(f"m{at}", config)
    modules = dict(wrapped.named_modules())
    with torch.no_grad():
        for at, folder in enumerate(folders(registry)):
            ours = built_adapter(base, folder / "model" / "adapters" / "skill")
            for site, layer in zip(ours.sites, ours.layers, strict=True):
                theirs = modules[f"base_model.model.{site.name}"]
                theirs.lora_A[f"m{at}"].weight.copy_(layer.down_RI)
                theirs.lora_B[f"m{at}"].weight.copy_(layer.up_OR)
    return wrapped.eval()


def folders(registry: Path) -> list[Path]:
    """The models' folders in order of mission."""
    found = {}
    for folder in RegistryPaths(root=registry).models.iterdir():
        manifest = json.loads((folder / "manifest.json").read_text())
        found[int(manifest["mission"][1:])] = folder
    return [found[at] for at in range(ADAPTERS)]


def _until_eos(tokens: list[int], eos: int = 2) -> list[int]:
    return tokens[: tokens.index(eos)] if eos in tokens else tokens


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
        return sum(t.user + t.system for t in times)


async def drive(
    target: Target, rows: Sequence[list[int]], clients: int, adapters: int, requests: int
) -> Figure:
    """C clients until `requests` answers have come."""
    todo = iter(range(requests))
    latencies: list[float] = []
    texts: dict[int, str] = {}
    tokens = 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal tokens
        for number in todo:
            at = number % adapters
            path, body = target.body(at, rows[at])
            began = time.perf_counter()
            async with session.post(target.url + path, json=body) as answer:
                told = await answer.json()
                if answer.status != 200:
                    raise RuntimeError(f"{target.name}: {told}")
            latencies.append(time.perf_counter() - began)
            if "tokens" in told:
                tokens += len(told["tokens"])
                texts[at] = str(told["tokens"])
            else:
                tokens += told["usage"]["completion_tokens"]
                texts[at] = told["choices"][0]["text"]

    cpu_s, began = target.cpu_s(), time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    wall_s, cpu_s = time.perf_counter() - began, target.cpu_s() - cpu_s
    return _figure(tokens, wall_s, cpu_s, latencies, texts)


def bare(
    engine: Engine,
    names: Sequence[str],
    rows: Sequence[list[int]],
    clients: int,
    adapters: int,
    requests: int,
) -> Figure:
    """The engine alone, in this thread: `clients` answers under way."""
    latencies: list[float] = []
    todo = iter(range(requests))
    tokens, open_ = 0, 0
    texts: dict[int, str] = {}

    def ask() -> None:
        nonlocal open_
        number = next(todo, None)
        if number is None:
            return
        at, began = number % adapters, time.perf_counter()
        said: list[str] = []

        def hear(event: Event) -> None:
            nonlocal tokens, open_
            tokens += len(event.tokens)
            said.append(event.text)
            if event.finish is not None:
                open_ -= 1
                latencies.append(time.perf_counter() - began)
                texts[at] = "".join(said)
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

    cpu_s, began = time.process_time(), time.perf_counter()
    for _ in range(clients):
        ask()
    while open_:
        engine.step()
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    return _figure(tokens, wall_s, cpu_s, latencies, texts)


def _figure(
    tokens: int, wall_s: float, cpu_s: float, latencies: list[float], texts: dict[int, str]
) -> Figure:
    ordered = sorted(latencies)
    return Figure(
        tokens_s=tokens / wall_s,
        tokens_cpu_s=tokens / max(cpu_s, 1e-9),
        p50_ms=1e3 * ordered[len(ordered) // 2],
        p99_ms=1e3 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        texts=tuple(texts[at] for at in sorted(texts)),
    )


# --- the whole ------------------------------------------------------------------------------------


@contextmanager
def process(arguments: Sequence[str], port: int, path: str) -> Iterator[int]:
    """A server process until it answers on its port."""
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    running = subprocess.Popen([sys.executable, *arguments], env=environ)
    try:
        for _ in range(1200):
            if running.poll() is not None:
                raise RuntimeError(f"{arguments}: ended with {running.returncode}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.25)
        yield running.pid
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ray", action="store_true", help="ours under Ray Serve and HAProxy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peft", nargs=3, metavar=("MODE", "REGISTRY", "PORT"))
    args = parser.parse_args(argv)
    if args.peft:
        peft_server(args.peft[0], Path(args.peft[1]), int(args.peft[2]))
        return 0
    torch.set_num_threads(1)
    cells = [(8, 8), (32, 8), (32, 1), (32, 32)]
    if not args.quick:
        cells = [(c, a) for c in (1, 8, 32) for a in (1, 8, 32)]
    rounds = 3 if args.quick else args.rounds
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        registry = Path(folder) / "registry"
        base = load_base(bundled_path())
        for at in range(ADAPTERS):
            write = trial.adapter(base, at, size=0.02, kind="lora", rank=RANK, alpha=2.0 * RANK)
            trial.register(registry, "adapter", f"M{at}", write, base=base)
        ports = {name: free_port() for name in ("ours", "set", "names")}
        config = Path(folder) / "serving.yaml"
        config.write_text("limits: {requests_per_minute: 1000000, burst: 100000}\n")
        serve = ["fleet.py", "serve", "--registry", str(registry), "--port", str(ports["ours"])]
        serve += ["--config", str(config), *([] if args.ray else ["--one-process"])]
        own = str(Path(__file__))
        started = {
            "ours": (serve, "/readyz"),
            "set": ([own, "--peft", "set", str(registry), str(ports["set"])], "/docs"),
            "names": ([own, "--peft", "names", str(registry), str(ports["names"])], "/docs"),
        }
        targets = {}
        for name, (arguments, path) in started.items():
            pid = stack.enter_context(process(arguments, ports[name], path))
            targets[name] = Target(name=name, url=f"http://127.0.0.1:{ports[name]}", pid=pid)
        host = AdapterHost(base)
        names = []
        for at, where in enumerate(folders(registry)):
            adapter = built_adapter(base, where / "model" / "adapters" / "skill")
            host.attach(f"m{at}", adapter.requires_grad_(False))
            names.append(f"m{at}")
        engine = Engine(host, Limits(rows=MOST))
        rows = choose_prompts(engine, names)
        found: dict[tuple[str, int, int], list[Figure]] = {}
        for number in range(rounds + 1):  # the first one warms up
            for clients, adapters in cells:
                requests = max(MOST, clients) if args.quick else max(MOST, 3 * clients)
                for name, target in targets.items():
                    if args.quick and name != "ours" and (clients, adapters) != CLAIMED:
                        continue
                    count = min(requests, 12 if args.quick else 40) if name == "set" else requests
                    figure = asyncio.run(drive(target, rows, clients, adapters, count))
                    found.setdefault((name, clients, adapters), []).append(figure)
                figure = bare(engine, names, rows, clients, adapters, requests)
                found.setdefault(("engine", clients, adapters), []).append(figure)
            sys.stderr.write(f"round {number} of {rounds}\n")
        _report(found, cells, base.tokenizer, args.json)
    return 0


def _report(
    found: dict[tuple[str, int, int], list[Figure]],
    cells: Sequence[tuple[int, int]],
    tokenizer: Any,
    out: Path | None,
) -> None:
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    lines.append("| clients | adapters | system | tokens/s | tokens/CPU s | p50 ms | p99 ms |")
    lines.append("|---|---|---|---|---|---|---|")
    for clients, adapters in cells:
        for name in ("ours", "engine", "set", "names"):
            if (name, clients, adapters) not in found:
                continue
            figures = found[name, clients, adapters][1:]
            row = {
                "clients": clients,
                "adapters": adapters,
                "system": name,
                "tokens_s": statistics.median(f.tokens_s for f in figures),
                "tokens_cpu_s": statistics.median(f.tokens_cpu_s for f in figures),
                "p50_ms": statistics.median(f.p50_ms for f in figures),
                "p99_ms": statistics.median(f.p99_ms for f in figures),
            }
            rows.append(row)
            lines.append(
                f"| {clients} | {adapters} | {name} | {row['tokens_s']:.0f} | "
                f"{row['tokens_cpu_s']:.0f} | {row['p50_ms']:.0f} | {row['p99_ms']:.0f} |"
            )
    claims = {
        "ours over set, 32 clients, 8 adapters": _ratio(found, "ours", "set", CLAIMED),
        "ours over names, 32 clients, 8 adapters": _ratio(found, "ours", "names", CLAIMED),
        "bare engine over ours, 8 clients, 8 adapters": _ratio(found, "engine", "ours", (8, 8)),
    }
    pairs = zip(found["ours", 32, 32][1:], found["ours", 32, 1][1:], strict=True)
    ratios = [
        (many.tokens_s / one.tokens_s, many.tokens_cpu_s / one.tokens_cpu_s) for many, one in pairs
    ]
    claims["ours, 32 adapters over 1, 32 clients"] = tuple(
        statistics.median(r[i] for r in ratios) for i in (0, 1)
    )
    lines.append("\n| claim | ratio of tokens/s | of tokens/CPU s |\n|---|---|---|")
    for claim, (wall, cpu) in claims.items():
        lines.append(f"| {claim} | {wall:.2f} | {cpu:.2f} |")
    same = _same_answers(found, tokenizer)
    lines.append(f"\nanswers equal to PEFT's: {same[0]} of {same[1]}")
    sys.stdout.write("\n".join(lines) + "\n")
    if out is not None:
        machine = {"cpu": platform.processor(), "cores": os.cpu_count()}
        machine |= {"torch": torch.__version__}
        text = {"machine": machine, "rows": rows, "claims": claims, "same": same}
        out.write_text(json.dumps(text, indent=1) + "\n")


def _ratio(
    found: dict[tuple[str, int, int], list[Figure]], one: str, other: str, cell: tuple[int, int]
) -> tuple[float, float]:
    """Medians over rounds of the ratio within a round."""
    pairs = list(zip(found[one, *cell][1:], found[other, *cell][1:], strict=True))
    return (
        statistics.median(a.tokens_s / b.tokens_s for a, b in pairs),
        statistics.median(a.tokens_cpu_s / b.tokens_cpu_s for a, b in pairs),
    )


def _same_answers(
    found: dict[tuple[str, int, int], list[Figure]], tokenizer: Any
) -> tuple[int, int]:
    ours = found["ours", *CLAIMED][-1].texts
    theirs = found["names", *CLAIMED][-1].texts
    decoded = [tokenizer.decode(json.loads(t), skip_special_tokens=True) for t in theirs]
    return sum(a == b for a, b in zip(ours, decoded, strict=True)), len(decoded)


if __name__ == "__main__":
    sys.exit(main())

"""Two plain servers over PEFT, to compare with (`serving.py` starts them, each in its process).

    set        FastAPI, one request at a time: `set_adapter`, then `generate`
    names      FastAPI, up to 32 requests that come together in one `generate(adapter_names=...)`

They hold the LoRAs of a registry that `serving.py` has made, as PEFT's own, and take one torch
thread. POST /generate {adapter, prompt: token ids} -> {tokens}. They know nothing of the fleet's
server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import peft
import torch
import uvicorn
from fastapi import FastAPI
from transformers import AutoModelForCausalLM

from bem import load_base
from bem.checkpoint import built_adapter
from fleet.registry.folders import RegistryPaths
from missions.base_model import bundled_path

ADAPTERS, RANK, TOKENS = 32, 8, 32
MOST = 32
"""Requests side by side, and the rows of a batch."""
GATHER_S = 0.006
"""A batch waits this long for one more request: shorter waits split it and make the peer slower."""
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def serve(mode: str, registry: Path, port: int) -> None:
    """Until it is ended."""
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
            while len(waiting) < MOST:
                try:
                    waiting.append(await asyncio.wait_for(queue.get(), GATHER_S))
                except TimeoutError:
                    break
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


def main(argv: Sequence[str] | None = None) -> int:
    """One of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mode", choices=("set", "names"))
    parser.add_argument("registry", type=Path)
    parser.add_argument("port", type=int)
    given = parser.parse_args(argv)
    serve(given.mode, given.registry, given.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())

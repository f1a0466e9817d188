"""The runs that test_distributed.py compares: `shared_run.py FOLDER STEP_TO_BE_STRUCK_IN`.

Two forked processes for each strategy, then one alone: imports are paid once, and nothing has used
autograd when the processes are forked.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from bem.base import BaseModel
from bem.distributed import Share
from bem.injection import AdapterHost
from bem.registry import make_config
from bem.state_tree import TorchDraws
from bem.training import fit
from bem.training_checkpoint import StageCheckpoints


def broken(folder: Path, rank: int, struck_at: int) -> None:
    """What each process says of weights that are not finite when a checkpoint is due."""
    folder.mkdir(exist_ok=True)
    try:
        main("ddp", folder, rank, "broken", struck_at)
    except Exception as error:  # noqa: BLE001 - of whatever kind, it is what the test looks at
        (folder / f"said-{rank}.txt").write_text(f"{type(error).__name__}: {error}")


def tiny_base() -> BaseModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return BaseModel(LlamaForCausalLM(config), None, "tiny")


def main(
    strategy: str, folder: Path, rank: int, life: str = "only", struck_at: int | None = None
) -> None:
    """`life`: "struck" ends with one process killed in a step, "next" goes on from there; in
    "broken" the weights are infinite after that step, in every process alike."""
    torch.set_num_threads(1)
    share, checkpoints = None, None
    if strategy != "alone":
        store = f"file://{folder}/store-{life}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
        share = Share(strategy)  # type: ignore[arg-type]
    base = tiny_base()
    if share is not None:
        share.shard(base)
    host = AdapterHost(base)
    config = make_config("lora", rank=4, targets="all-linear")
    host.add("a", config, generator=torch.Generator().manual_seed(1))
    host.use("a")
    host.train_only("a")
    draws = torch.Generator().manual_seed(2)
    gradients: list[float] = []

    told: list[int] = []
    if life != "only":
        checkpoints = StageCheckpoints(
            folder / f"checkpoints-{rank}",
            key="k",
            every_s=0.0,
            quarantine=folder / "quarantine",
            alarm=sys.exit,
            resumed=lambda found: told.append(found.step),
            clock=itertools.count(0.0, 1000.0).__next__,  # it is always time for another one
        )

    def step_loss(step: int) -> Tensor:
        if (life, rank, step) == ("struck", 1, struck_at):
            os.kill(os.getpid(), signal.SIGKILL)
        # Rows of unlike length: a mean of means would not be the mean.
        rows = [
            torch.randint(1, 64, (length,), generator=draws) for length in (5, 17, 9, 30, 4, 22, 11)
        ]
        own = rows if share is None else share.mine(rows)
        ids_BT = nn.utils.rnn.pad_sequence(own, batch_first=True)
        mask_BT = (ids_BT > 0).long()
        logits_BTV = host(ids_BT, mask_BT).logits[:, :-1]
        labels_BT = ids_BT[:, 1:].masked_fill(ids_BT[:, 1:] == 0, -100)
        summed = nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1).float(), labels_BT.flatten(), reduction="sum"
        )
        count = (labels_BT != -100).sum()
        return summed / (count if share is None else share.total(count))

    groups = host.parameter_groups(1e-2)

    def after_step(step: int) -> None:
        if (life, step) == ("broken", struck_at):
            with torch.no_grad():
                for parameter in groups[0]["params"]:
                    parameter.fill_(math.inf)

    result = fit(
        step_loss,
        [{**groups[0], "after_step": after_step}, *groups[1:]],
        steps=8,
        log=lambda step, figures: gradients.append(figures["gradient_norm"]),
        log_every=1,
        checkpoints=checkpoints,
        carried={"draws": TorchDraws(draws)},
        share=share,
    )
    weights = {name: t.detach().clone() for name, t in host["a"].state_dict().items()}
    if share is not None:
        everybody: list[dict[str, Tensor]] = [{} for _ in range(share.world)]
        dist.all_gather_object(everybody, weights)
        assert all(
            torch.equal(other[name], t) for other in everybody for name, t in weights.items()
        ), "the ranks do not agree"
    if share is None or share.leads:
        local = [p.to_local() if hasattr(p, "to_local") else p for p in base.layers.parameters()]
        facts = {
            "losses": result.losses,
            "gradients": gradients,
            "resumed_at": told,
            "base_bytes_of_layers": sum(p.numel() * p.element_size() for p in local),
        }
        (folder / "facts.json").write_text(json.dumps(facts))
        save_file(weights, folder / "weights.safetensors")
    if share is not None:
        dist.destroy_process_group()


if __name__ == "__main__":
    root = Path(sys.argv[1])
    forking = multiprocessing.get_context("fork")
    for strategy in ("ddp", "fsdp"):
        for name, life in (("", "only"), ("-struck", "struck"), ("-struck", "next")):
            folder = root / f"{strategy}{name}"
            folder.mkdir(exist_ok=True)
            ranks = [
                forking.Process(target=main, args=(strategy, folder, rank, life, int(sys.argv[2])))
                for rank in (0, 1)
            ]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join()
            if all(process.exitcode for process in ranks) != (life == "struck"):
                sys.exit(f"{strategy} {life} failed")
    ranks = [
        forking.Process(target=broken, args=(root / "broken", rank, int(sys.argv[2])))
        for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    (root / "alone").mkdir()
    main("alone", root / "alone", 0)

"""Trains a static LoRA and a generated BEM on two conflicting rules and compares them, in seconds.

The prompt's first word names the rule (`keep` or `turn`), so a code that reads the prompt can tell
them apart. Run: `python examples/adapt_the_bundled_base.py` (about 20 CPU seconds).
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from bem import AdapterHost, load_base, make_config
from bem.data import Example, encode, pad, pad_id_of
from bem.evaluate import target_loss, teacher_forced_exact_match
from bem.sizing import match_rank
from bem.training import fit
from missions.base_model import bundled_path
from missions.data.names import sample_names
from missions.data.splits import Split

STEPS = 60


def example(rng: np.random.Generator, split: Split, index: int) -> Example:
    """Two names, kept in order or turned around as the first word says."""
    rule = ("keep", "turn")[index % 2]
    names = sample_names(rng, split, 2)
    target = " ".join(names if rule == "keep" else reversed(names))
    return Example(
        prompt=f"{rule}: {' '.join(names)}\n", target=target, id=str(index), cluster=rule
    )


def main(steps: int = STEPS) -> dict[str, float]:
    """Exact match on unseen names by arm."""
    torch.set_num_threads(1)
    base = load_base(bundled_path())
    rng = np.random.default_rng(0)
    train = encode([example(rng, "train", i) for i in range(16 * steps)], base.tokenizer)
    test = encode([example(rng, "test", i) for i in range(200)], base.tokenizer)
    bem = make_config("generated", rank=8, code="sequence")
    host = AdapterHost(base)
    host.add("bem", bem, generator=torch.Generator().manual_seed(0))
    size = host.num_trainable("bem")
    host.add(
        "lora",
        match_rank(make_config("lora", rank=8), size, base),
        generator=torch.Generator().manual_seed(0),
    )
    scores: dict[str, float] = {}
    for name in ("lora", "bem"):
        host.use(name)
        host.train_only(name)

        def step_loss(step: int) -> torch.Tensor:
            rows = train[16 * step : 16 * (step + 1)]
            batch = pad(rows, pad_id=pad_id_of(base.tokenizer), device=base.device)
            return target_loss(host, batch, batch.routing())

        result = fit(step_loss, host.parameter_groups(lr=5e-3), steps=steps)
        scores[name] = float(np.mean(teacher_forced_exact_match(host, test)))
        sys.stdout.write(
            f"{name:5s} {host.num_trainable(name):>7,d} parameters, {steps} steps in "
            f"{result.cpu_s:.1f} CPU s, exact match on unseen names {scores[name]:.3f}\n"
        )
    return scores


if __name__ == "__main__":
    main()

"""Teaches the bundled base two behaviours that only a hint tells apart, saves and serves them.

The prompt is two names. Under the hint `keep` they are repeated, under `turn` turned around: on one
prompt a static adapter can be right for one of them only. Then: an unknown hint, strength 0, a
reload from disk, and what is lost when one hint is distilled to a static LoRA.
Run: `python examples/adapt_with_hints.py` (about 11 CPU seconds).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from bem import BEMConfig, BEMModel
from bem.distil import distil
from bem.errors import InvalidInputError
from bem.model import LabelledExample, encode_labelled
from missions.base_model import bundled_path
from missions.data.names import sample_names
from missions.data.splits import Split

STEPS = 100
HINTS = ("keep", "turn")


def both(rng: np.random.Generator, split: Split) -> list[LabelledExample]:
    """One prompt with each hint."""
    names = sample_names(rng, split, 2)
    targets = {"keep": " ".join(names), "turn": " ".join(reversed(names))}
    prompt = f"{' '.join(names)}\n"
    return [LabelledExample(prompt=prompt, target=targets[h], hints=(h,)) for h in HINTS]


def main(steps: int = STEPS) -> dict[str, float]:
    """Exact match on unseen names by hint, and what distilling loses."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    train = [example for _ in range(8 * steps) for example in both(rng, "train")]
    test = [example for _ in range(100) for example in both(rng, "test")]
    config = BEMConfig(
        base=bundled_path(), adapters={"order": {"kind": "generated", "rank": 8}}, hints=HINTS
    )
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "order"
        with BEMModel(config) as model:
            result = model.fit(train, generator=torch.Generator().manual_seed(0), steps=steps)
            model.save_pretrained(saved)
        sys.stdout.write(f"{steps} steps in {result.cpu_s:.1f} CPU s\n")
        model = BEMModel.from_pretrained(saved)
    for hint in HINTS:
        rows = [e for e in test if e.hints == (hint,)]
        found[hint] = float(np.mean(model.exact_match(rows)))
        sys.stdout.write(f"exact match on unseen names, {hint}: {found[hint]:.3f}\n")
    prompt = test[0].prompt
    said = model.generate([prompt] * 2, context_hints=HINTS, max_new_tokens=16)
    off = model.generate(prompt, context_hints="turn", adaptation_strength=0, max_new_tokens=16)
    sys.stdout.write(f"{prompt.strip()!r}: {said}, at strength 0 {off!r}\n")
    try:
        model.generate(prompt, context_hints="sort")
    except InvalidInputError as error:
        sys.stdout.write(f"{error}\n")
    sys.stdout.write(f"{model.analyze_routing([prompt] * 2, context_hints=HINTS)}\n")
    for name, chosen in (("one_hint", HINTS[:1]), ("both_hints", HINTS)):
        seen = [e for e in train[:800] if e.hints[0] in chosen]
        unseen = [e for e in test if e.hints[0] in chosen]
        report = distil(
            model.host,
            "order",
            encode_labelled(seen, model.base.tokenizer),
            into=name,
            rank=8,
            generator=torch.Generator().manual_seed(0),
            routing=model.routing_for(seen),
            held_out=encode_labelled(unseen, model.base.tokenizer),
            held_out_routing=model.routing_for(unseen),
        )
        found[f"lost_{name}"] = report.lost
        sys.stdout.write(
            f"distilled to a static LoRA, {name}: KL {report.kl_before:.3f} to the base, "
            f"{report.kl_after:.3f} to the LoRA\n"
        )
    return found


if __name__ == "__main__":
    main()

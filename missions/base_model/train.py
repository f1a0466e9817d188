"""Train the bundled base model: a tiny Llama on the generated world, on one CPU core.

    python -m missions.base_model.train --out runs/base

Trains the tokenizer, then the model: float32 master weights, forward and backward in bfloat16,
AdamW with a cosine schedule, copy skills alone first. Eager attention and `torch.compile` are used
because they are the fastest pair on a CPU at these lengths. The result is a Hugging Face folder.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from missions.base_model.corpus import COPY_FIRST, HARD_MIXTURE, MIXTURE, RANDOM_COPY_SHARE, Corpus
from missions.base_model.skills import measure_skills
from missions.data.tokenizer import train_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that decides the base's weights."""

    hidden_size: int = 128
    num_layers: int = 3
    num_heads: int = 4
    ffn_size: int = 384
    rope_theta: float = 200.0
    max_positions: int = 2048
    seed: int = 0
    total_tokens: int = 49_000_000
    random_copy_tokens: int = 1_500_000
    copy_first_tokens: int = 3_000_000
    hard_mixture_tokens: int = 18_000_000
    pairs_tokens: int = 39_000_000
    pairs_share: float = 0.3
    tokens_per_batch: int = 2048
    learning_rate: float = 1e-3
    pairs_learning_rate: float = 8e-4
    final_learning_rate: float = 3e-5
    warmup_steps: int = 100
    weight_decay: float = 0.05
    clip_norm: float = 1.0


def llama_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The transformers config of the base."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.ffn_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=recipe.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def learning_rate(recipe: Recipe, step: int, tokens: int) -> float:
    """Linear warm-up over steps; a cosine over tokens, begun anew where the pairs come in."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    low = recipe.final_learning_rate
    high, start, end = recipe.learning_rate, 0, recipe.pairs_tokens
    if tokens >= recipe.pairs_tokens:
        high, start, end = recipe.pairs_learning_rate, end, recipe.total_tokens
    phase = (tokens - start) / (end - start)
    return warm * (low + (high - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, phase))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """What the stream is made of at one time."""

    weights: Mapping[str, float]
    random_share: float = RANDOM_COPY_SHARE
    pairs_share: float = 0.0


def phase_of(recipe: Recipe, tokens: int) -> Phase:
    """Random copies alone, copying, everything, the hard skills, these with pairs."""
    if tokens < recipe.random_copy_tokens:
        return Phase(weights=COPY_FIRST, random_share=1.0)
    if tokens < recipe.copy_first_tokens:
        return Phase(weights=COPY_FIRST, random_share=0.3)
    if tokens < recipe.hard_mixture_tokens:
        return Phase(weights=MIXTURE)
    if tokens < recipe.pairs_tokens:
        return Phase(weights=HARD_MIXTURE)
    return Phase(weights=HARD_MIXTURE, pairs_share=recipe.pairs_share)


class Trainer:
    """Master weights in float32, a bfloat16 twin that computes."""

    def __init__(
        self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, *, compiled: bool
    ) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            config = llama_config(recipe, tokenizer)
            self.master = LlamaForCausalLM(config)
            config_twin = llama_config(recipe, tokenizer)
            config_twin._attn_implementation = "eager"
            self._twin = LlamaForCausalLM(config_twin)
        self._twin.load_state_dict(self.master.state_dict())
        self._twin.to(torch.bfloat16)
        decay = [p for p in self.master.parameters() if p.ndim > 1]
        plain = [p for p in self.master.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": recipe.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            fused=True,
        )
        self._loss = torch.compile(self._raw_loss, dynamic=False) if compiled else self._raw_loss
        self.step_count = 0
        self.tokens = 0

    def _raw_loss(self, ids_BT: Tensor, weight_BT: Tensor) -> Tensor:
        logits_BTV = self._twin(input_ids=ids_BT, use_cache=False).logits
        nll_N = torch.nn.functional.cross_entropy(
            logits_BTV[:, :-1].float().flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none"
        )
        weight_N = weight_BT[:, 1:].flatten()
        return (nll_N * weight_N).sum() / weight_N.sum()

    def step(self, ids_BT: Tensor, weight_BT: Tensor) -> float:
        """One optimizer step; returns the loss."""
        loss = self._loss(ids_BT, weight_BT)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            pairs = list(zip(self.master.parameters(), self._twin.parameters(), strict=True))
            for master, twin in pairs:
                assert twin.grad is not None
                master.grad = twin.grad.float()
                twin.grad = None
            torch.nn.utils.clip_grad_norm_(self.master.parameters(), self.recipe.clip_norm)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.recipe, self.step_count, self.tokens)
            self.optimizer.step()
            for master, twin in pairs:
                twin.copy_(master)
        self.step_count += 1
        self.tokens += ids_BT.numel()
        return float(loss.detach())

    def resume(self, folder: Path) -> None:
        """Go on from a saved folder: its weights and its count of tokens, a fresh optimizer."""
        weights = load_file(folder / "model.safetensors")
        missing = self.master.load_state_dict(weights, strict=False).missing_keys
        if set(missing) - {"lm_head.weight"}:
            raise ValueError(f"{folder / 'model.safetensors'} lacks {', '.join(missing)}")
        self._twin.load_state_dict(self.master.state_dict())
        progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        self.tokens = int(progress["tokens"])

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and the count of tokens as a Hugging Face folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "progress.json").write_text(json.dumps({"tokens": self.tokens}))
        self.master.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def train(
    recipe: Recipe,
    out: Path,
    *,
    compiled: bool,
    report_every: int,
    log: Callable[[str], None],
    resume: Path | None = None,
) -> dict[str, float]:
    """Train and write `out`; returns the dev figures of the end.

    Every `report_every` steps the dev figures (100 items a skill) are logged and `out/latest` is
    rewritten.
    """
    tokenizer = train_tokenizer(np.random.default_rng(recipe.seed))
    trainer = Trainer(recipe, tokenizer, compiled=compiled)
    if resume is not None:
        trainer.resume(resume)
    corpus = Corpus(tokenizer, np.random.default_rng([recipe.seed, trainer.tokens]))
    started = time.process_time()
    figures: dict[str, float] = {}
    while trainer.tokens < recipe.total_tokens:
        phase = phase_of(recipe, trainer.tokens)
        for batch in corpus.batches(
            phase.weights,
            tokens_per_batch=recipe.tokens_per_batch,
            random_share=phase.random_share,
            pairs_share=phase.pairs_share,
        ):
            loss = trainer.step(torch.from_numpy(batch.ids_BT), torch.from_numpy(batch.weight_BT))
            if trainer.step_count % 100 == 0:
                line = {
                    "step": trainer.step_count,
                    "tokens": trainer.tokens,
                    "loss": round(loss, 4),
                }
                log(json.dumps({**line, "cpu_s": round(time.process_time() - started, 1)}))
            if trainer.step_count % report_every == 0:
                trainer.save(out / "latest")
                figures = dev_figures(trainer, recipe)
                log(json.dumps({"dev": {k: round(v, 3) for k, v in figures.items()}}))
    trainer.save(out)
    (out / "recipe.json").write_text(
        json.dumps(
            {**asdict(recipe), "cpu_s": time.process_time() - started, "steps": trainer.step_count},
            indent=1,
        )
    )
    return figures


def dev_figures(trainer: Trainer, recipe: Recipe) -> dict[str, float]:
    """Exact match of every skill on 100 dev items (the test split is left alone)."""
    results = measure_skills(
        trainer.master, trainer.tokenizer, np.random.default_rng(recipe.seed + 1), num_items=100
    )
    trainer.master.train()
    return {result.skill: result.exact_match for result in results}


def write_line(line: str) -> None:
    """One line of progress on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--total-tokens", type=int, default=Recipe().total_tokens)
    parser.add_argument("--report-every", type=int, default=500)
    parser.add_argument("--resume", type=Path, help="a saved folder to go on from")
    parser.add_argument("--no-compile", action="store_true", help="where no C++ compiler exists")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(
        total_tokens=args.total_tokens,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    train(
        recipe,
        args.out,
        compiled=not args.no_compile,
        report_every=args.report_every,
        log=write_line,
        resume=args.resume,
    )


if __name__ == "__main__":
    main()

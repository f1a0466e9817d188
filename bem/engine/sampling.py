"""Next tokens, each row by its own rule and its own Generator.

A row's draws come from its seed alone, so they do not depend on who stands beside it, and they are
those of `BEMModel.generate(do_sample=True, top_k=0, generator=seeded)` to the bit of the same
logits: same order (temperature, then nucleus), same use of the random stream. It knows neither
models nor texts.

Legend: B rows, V vocabulary, N rows that sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How a row picks its tokens."""

    temperature: float = 0.0
    """0: the most likely token."""
    top_p: float = 1.0
    """Tokens are drawn from the most likely ones that together have this probability."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InvalidInputError(f"temperature is {self.temperature}; give 0 or more.")
        if not 0 < self.top_p <= 1:
            raise InvalidInputError(f"top_p is {self.top_p}; give more than 0, at most 1.")
        if not 0 <= self.seed < 2**63:
            raise InvalidInputError(f"seed is {self.seed}; give 0 to 2**63 - 1.")


class RowSampler:
    """One row's rule and where its random stream stands."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.rule = sampling
        self.greedy = sampling.temperature == 0
        self._generator: Tensor | torch.Generator | None = None
        if not self.greedy:
            # `generate` seeds transformers' draws with one of the caller's Generator: so do we.
            outer = torch.Generator(device).manual_seed(sampling.seed)
            seed = int(torch.randint(2**62, (), generator=outer, device=device))
            self._generator = torch.Generator(device).manual_seed(seed)

    def draw(self, probabilities_V: Tensor) -> Tensor:
        """One token, ()."""
        assert isinstance(self._generator, torch.Generator)
        return torch.multinomial(probabilities_V, 1, generator=self._generator)[0]


def pick(logits_BV: Tensor, samplers: Sequence[RowSampler]) -> Tensor:
    """The next token of each row, (B,)."""
    token_B = logits_BV.argmax(-1)
    drawing = [i for i, sampler in enumerate(samplers) if not sampler.greedy]
    if not drawing:
        return token_B
    rules = [samplers[i].rule for i in drawing]
    warm_N1 = logits_BV.new_tensor([rule.temperature for rule in rules], dtype=torch.float32)[
        :, None
    ]
    scores_NV = logits_BV[drawing].float() / warm_N1
    nucleus = [n for n, rule in enumerate(rules) if rule.top_p < 1]
    if nucleus:
        top_p_N1 = scores_NV.new_tensor([rules[n].top_p for n in nucleus])[:, None]
        scores_NV[nucleus] = _in_nucleus(scores_NV[nucleus], top_p_N1)
    probabilities_NV = scores_NV.softmax(-1)
    for n, i in enumerate(drawing):
        token_B[i] = samplers[i].draw(probabilities_NV[n])
    return token_B


def _in_nucleus(scores_NV: Tensor, top_p_N1: Tensor) -> Tensor:
    """Scores with -inf at the unlikely tokens that together have at most 1 - top_p."""
    ascending_NV, index_NV = scores_NV.sort(dim=-1)
    out_NV = ascending_NV.softmax(-1).cumsum(-1) <= 1 - top_p_N1
    out_NV[:, -1] = False
    return scores_NV.masked_fill(out_NV.scatter(1, index_NV, out_NV), -torch.inf)

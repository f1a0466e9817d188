"""Delta-rule memory (2102.11174; chunked form as in 2406.06484) under a hard gate, without decay.

    S_i = S_{i-1} + beta_i (v_i - S_{i-1} k_i) k_i^T

with unit keys: for beta in [0, 1] a write can only shrink the error under its key, |I - beta k k^T|
<= 1, so no spectral clamp is needed. beta below the threshold is exactly zero and such a position
writes nothing: the state keeps its bits. In a chunk the `write_cap` largest gates write, in their
order, by one triangular solve:

    (I + tril(diag(beta) K K^T, -1)) U = diag(beta) (V - K S_0^T),   S_R = S_0 + U^T K

Knows neither how keys, values and logits were made nor what is read out of it.

Legend: B streams, T queries, N chunks, C positions of a chunk, R writes of a chunk, K key width,
V value width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.memory.delta.config import DeltaConfig
from bem.memory.gate import hard_gate
from bem.memory.interfaces import MemoryStore, StoreState


class DeltaStore(MemoryStore):
    """One (V, K) matrix a stream."""

    gated = True
    merges = False

    def __init__(self, config: DeltaConfig, *, threshold: float) -> None:
        super().__init__()
        self.key_width = config.key_width
        self.value_width = config.value_width
        self.write_cap = config.write_cap
        self.threshold = threshold

    def initial(self, batch: int, *, device: torch.device) -> StoreState:
        return {"matrix": torch.zeros(batch, self.value_width, self.key_width, device=device)}

    def read(self, state: StoreState, q_BTK: Tensor) -> Tensor:
        return q_BTK @ state["matrix"].mT

    def candidates(self, logit_BNC: Tensor) -> Tensor:
        cap = min(self.write_cap, logit_BNC.shape[2])
        return logit_BNC.detach().topk(cap, dim=2).indices.sort(dim=2).values

    def idle(self, logit_BNC: Tensor) -> Tensor:
        return (hard_gate(logit_BNC.detach(), self.threshold) == 0).all(dim=2).all(dim=0)

    def write(
        self, state: StoreState, k_BRK: Tensor, v_BRV: Tensor, logit_BR: Tensor
    ) -> StoreState:
        matrix_BVK = state["matrix"]
        beta_BR1 = hard_gate(logit_BR, self.threshold).unsqueeze(2)
        overlap_BRR = (beta_BR1 * (k_BRK @ k_BRK.mT)).tril(-1)
        error_BRV = beta_BR1 * (v_BRV - k_BRK @ matrix_BVK.mT)
        update_BRV = torch.linalg.solve_triangular(
            overlap_BRR, error_BRV, upper=False, unitriangular=True
        )
        return {"matrix": matrix_BVK + update_BRV.mT @ k_BRK}

    def write_flops(self, chunk: int) -> int:
        writes = min(self.write_cap, chunk)
        products = 2 * self.key_width * self.value_width + writes * self.key_width
        solve = (writes - 1) * self.value_width
        return writes * (2 * products + solve)

    def read_flops(self) -> int:
        return 2 * self.key_width * self.value_width

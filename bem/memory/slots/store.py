"""Key-value slots, read by softmax attention.

    o = sum_m p_m beta_m v_m,  p = softmax over slots and one empty slot of (tau q.k_m + s_m, e)

keep = gate: s_m = log beta_m, the learned gate of the position; the `slots` largest gates seen so
far stay, and gates under the threshold never enter. Eviction by a learned score, in the spirit of
Locret (2410.01805), but trained end to end with the model. beta also scales the value: without
that, a sharp match reads a position whole whatever its gate, and the gate learns nothing.
keep = recent: beta_m = 1, s_m = 0; the first `sink` positions and the latest others stay
(StreamingLLM, 2309.17453). The score of a slot that holds nothing is -inf. Knows not how keys and
logits were made.

Legend: B streams, T queries, N chunks, C positions of a chunk, R candidates, M slots, J = M + R,
K key width, V value width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bem.memory.gate import hard_gate
from bem.memory.interfaces import MemoryStore, StoreState, take
from bem.memory.slots.config import SlotsConfig

_TEMPERATURE = 8.0


class SlotStore(MemoryStore):
    """M entries (key, value, score) a stream, in order of arrival."""

    merges = True

    def __init__(self, config: SlotsConfig, *, threshold: float) -> None:
        super().__init__()
        self.key_width = config.key_width
        self.value_width = config.value_width
        self._slots = config.slots
        self._train_slots = config.train_slots
        self.gated = config.keep == "gate"
        self.sink = 0 if self.gated else config.sink
        self.threshold = threshold
        self.log_temperature = nn.Parameter(torch.tensor(math.log(_TEMPERATURE)))
        self.empty_logit = nn.Parameter(torch.zeros(()))

    @property
    def slots(self) -> int:
        """M: `train_slots` in training mode."""
        return self._train_slots if self.training else self._slots

    def initial(self, batch: int, *, device: torch.device) -> StoreState:
        return {
            "keys": torch.zeros(batch, self.slots, self.key_width, device=device),
            "values": torch.zeros(batch, self.slots, self.value_width, device=device),
            "scores": torch.full((batch, self.slots), -math.inf, device=device),
        }

    def read(self, state: StoreState, q_BTK: Tensor) -> Tensor:
        affinity_BTM = self.log_temperature.exp() * (q_BTK @ state["keys"].mT)
        score_BM = state["scores"]
        bias_BM = functional.logsigmoid(score_BM) if self.gated else score_BM
        logit_BTM = affinity_BTM + bias_BM.unsqueeze(1)
        empty_BT1 = self.empty_logit.expand(*logit_BTM.shape[:2], 1)
        p_BTM = torch.cat([logit_BTM, empty_BT1], dim=2).softmax(dim=2)[..., :-1]
        if not self.gated:
            return p_BTM @ state["values"]
        return p_BTM @ (torch.sigmoid(score_BM).unsqueeze(2) * state["values"])

    def candidates(self, logit_BNC: Tensor) -> Tensor:
        batch, chunks, length = logit_BNC.shape
        if self.gated:
            most = min(self.slots, length)
            return logit_BNC.detach().topk(most, dim=2).indices.sort(dim=2).values
        position_C = torch.arange(length, device=logit_BNC.device)
        latest = max(self.sink, length - (self.slots - self.sink))
        where_R = position_C[(position_C < self.sink) | (position_C >= latest)]
        return where_R.expand(batch, chunks, -1)

    def idle(self, logit_BNC: Tensor) -> Tensor:
        if not self.gated:
            return torch.zeros(logit_BNC.shape[1], dtype=torch.bool, device=logit_BNC.device)
        return (hard_gate(logit_BNC.detach(), self.threshold) == 0).all(dim=2).all(dim=0)

    def write(
        self, state: StoreState, k_BRK: Tensor, v_BRV: Tensor, logit_BR: Tensor
    ) -> StoreState:
        if self.gated:
            absent_BR = hard_gate(logit_BR.detach(), self.threshold) == 0
            fresh_BR = logit_BR.masked_fill(absent_BR, -math.inf)
        else:
            fresh_BR = torch.zeros_like(logit_BR)
        score_BJ = torch.cat([state["scores"], fresh_BR], dim=1)
        rank_BJ = score_BJ.detach() if self.gated else self._recency(score_BJ)
        # Ascending positions put old before new, so slots stay in order of arrival.
        where_BM = rank_BJ.topk(self.slots, dim=1).indices.sort(dim=1).values
        return {
            "keys": take(torch.cat([state["keys"], k_BRK], dim=1), where_BM),
            "values": take(torch.cat([state["values"], v_BRV], dim=1), where_BM),
            "scores": score_BJ.gather(1, where_BM),
        }

    def write_flops(self, chunk: int) -> int:
        return 0

    def read_flops(self) -> int:
        return 2 * self._slots * (self.key_width + self.value_width)

    def _recency(self, score_BJ: Tensor) -> Tensor:
        """Ranks: sinks above all, then the later the higher, empty slots last."""
        count = score_BJ.shape[1]
        arrival_J = torch.arange(count, device=score_BJ.device, dtype=score_BJ.dtype)
        occupied_BJ = score_BJ > -math.inf
        is_sink_BJ = occupied_BJ & (occupied_BJ.cumsum(dim=1) <= self.sink)
        rank_BJ = torch.where(is_sink_BJ, arrival_J + count, arrival_J)
        return rank_BJ.masked_fill(~occupied_BJ, -1.0)

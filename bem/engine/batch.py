"""The rows of successive decode steps, from one that joins or leaves to the next.

What a step needs beside the model stays here from step to step: the routing context, what is read
and where, and what attention must not see. It knows neither tickets nor sampling.

Legend: B rows, C columns of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bem.engine.kv import Places
from bem.engine.row import Row
from bem.mixed.joining import RowState, join, leave


class Batch:
    """These rows, which stand in the first places."""

    def __init__(self, rows: Sequence[Row], places: Places, device: torch.device) -> None:
        self._places = places
        self._end = max(row.length for row in rows)
        self.context = join([row.state for row in rows], positions=self._end, device=device)
        self.token_B1 = torch.tensor([[row.token] for row in rows], device=device)
        """What the next step reads."""
        self._length_B1 = torch.tensor([[row.length] for row in rows], device=device)
        self._hidden_BC = torch.empty(len(rows), 0)

    def next(self) -> dict[str, Any]:
        """What the decoder is called with for one more token a row."""
        self._end += 1
        self._places.reserve(self._end)
        self._see()
        step = self._places.step(self._length_B1, self._end)
        position_B1 = self._length_B1
        self._length_B1 = position_B1 + 1
        return {
            "input_ids": self.token_B1,
            # Four dimensions, as attention adds it: transformers then makes no mask of its own,
            # which took a twentieth of a step.
            "attention_mask": self._hidden_BC[:, None, None, : self._end],
            "past_key_values": step,
            "position_ids": position_B1,
            "use_cache": True,
        }

    def leave(self, states: Sequence[RowState]) -> list[RowState]:
        """The rows' states now: what causal codes carry goes with them."""
        return leave(self.context, states)

    def _see(self) -> None:
        """Each row sees one more column of its place, the one that it is about to write."""
        if self._hidden_BC.shape[1] < self._end:
            columns_C = torch.arange(self._places.num_columns, device=self._length_B1.device)
            lowest = torch.finfo(self._places.dtype).min
            hidden_BC = columns_C >= self._length_B1
            self._hidden_BC = hidden_BC.to(self._places.dtype).mul_(lowest)
        self._hidden_BC.scatter_(1, self._length_B1, 0.0)

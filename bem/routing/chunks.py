"""The controller of chunk codes: each chunk of C tokens is read once it is whole, and what it says
acts on the tokens after it.

    f_j = norm(mean over chunk j of norm(h))           h: frozen-base features
    r_j = 2 sigmoid(heads tanh(trunk f_j))             in (0, 2), 1 is neutral
    e_0 = 1,  e_{j+1} = decay e_j + (1 - decay) r_j    e_j acts in chunk j: past chunks only

Chunks are counted over real tokens, row by row, so padding moves nothing. The open chunk's sum,
its length and e are the state: any split of the sequence into forwards gives the same codes. It
knows no adapter.

Legend: B rows, T positions, K chunks, N code size, D hidden size, H controller width, C chunk size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bem.routing.open_chunk import OpenChunk, normed


class ChunkController(nn.Module):
    """A two-layer network over the mean of each chunk, and the moving average of what it says."""

    def __init__(
        self,
        *,
        hidden_size: int,
        width: int,
        code_size: int,
        chunk_size: int,
        decay: float,
        head_spread: float,
        generator: torch.Generator,
    ) -> None:
        """`head_spread`: bound of the heads' uniform start, times 1 / sqrt(width)."""
        super().__init__()
        self.chunk_size = chunk_size
        self.decay = decay
        bound, spread = math.sqrt(3.0 / hidden_size), head_spread / math.sqrt(width)
        trunk_HD = torch.empty(width, hidden_size).uniform_(-bound, bound, generator=generator)
        heads_NH = torch.empty(code_size, width).uniform_(-spread, spread, generator=generator)
        self.trunk_HD = nn.Parameter(trunk_HD)
        self.trunk_bias_H = nn.Parameter(torch.zeros(width))
        self.heads_NH = nn.Parameter(heads_NH)
        self.heads_bias_N = nn.Parameter(torch.zeros(code_size))

    def forward(
        self, h_BTD: Tensor, valid_BT: Tensor, past: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        """Codes (B, K, N), which of the K acts at each position (B, T), and the new state.

        `past` is the state that the last call returned: "sum" (B, D) and "count" (B,) of the open
        chunk, "code" (B, N). None at the first positions.
        """
        if past is not None and h_BTD.shape[1] == 1 and not torch.is_grad_enabled():
            return self._one_token(h_BTD, valid_BT, past)
        size, dtype = self.chunk_size, self.trunk_HD.dtype
        rows, length, features = h_BTD.shape
        with torch.autocast(h_BTD.device.type, enabled=False):
            if past is None:
                sum_BD = torch.zeros(rows, features, dtype=dtype, device=h_BTD.device)
                count_B = torch.zeros(rows, dtype=torch.long, device=h_BTD.device)
                code_BN = self.heads_bias_N.new_ones(rows, len(self.heads_bias_N))
            else:
                sum_BD, count_B, code_BN = past["sum"], past["count"], past["code"]
            whole = _chunks_that_can_close(length, size, fresh=past is None)
            chunk_BT = (count_B[:, None] + valid_BT.cumsum(1) - 1).clamp_min(0) // size
            f_BTD = normed(h_BTD, dtype)
            member_BTK = nn.functional.one_hot(chunk_BT, whole + 1) * valid_BT[..., None]
            sums_BKD = torch.bmm(member_BTK.to(dtype).transpose(1, 2), f_BTD)
            sums_BKD = torch.cat([sums_BKD[:, :1] + sum_BD[:, None], sums_BKD[:, 1:]], dim=1)
            codes_BKN = self._averaged(code_BN, self._read(sums_BKD[:, :whole] / size))
            total_B = count_B + valid_BT.sum(1)
            open_B11 = (total_B // size)[:, None, None]
            state = {
                "sum": _at(sums_BKD, open_B11),
                "count": total_B % size,
                "code": _at(codes_BKN, open_B11),
            }
        return codes_BKN, chunk_BT, state

    def _one_token(
        self, h_B1D: Tensor, valid_B1: Tensor, past: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        """The same for a decode step: the open chunk's code is in force, and stays the very same
        tensor until a chunk closes, so that what was made of it can stay too."""
        size, code_BN = self.chunk_size, past["code"]
        looks = code_BN.device.type == "cpu" and not torch.compiler.is_compiling()
        if not looks:
            state = self._closed(h_B1D, valid_B1, past)
            return code_BN[:, None], torch.zeros_like(valid_B1, dtype=torch.long), state
        chunk = past if isinstance(past, OpenChunk) else OpenChunk(past, size=size)
        more = chunk.with_token(h_B1D, valid_B1)
        if more.may_be_whole():
            closes = int(more["count"].max()) == size
            more = OpenChunk(self._where_whole(more) if closes else more, size=size)
        return chunk.codes_B1N, chunk.chunk_B1, more

    def _closed(
        self, h_B1D: Tensor, valid_B1: Tensor, past: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Without a look at the data."""
        with torch.autocast(h_B1D.device.type, enabled=False):
            f_BD = normed(h_B1D[:, 0], self.trunk_HD.dtype)
            sum_BD = torch.addcmul(past["sum"], f_BD, valid_B1.to(f_BD.dtype))
        count_B = past["count"] + valid_B1[:, 0]
        return self._where_whole({"sum": sum_BD, "count": count_B, "code": past["code"]})

    def _where_whole(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows whose chunk is whole have its code, and begin another."""
        size, sum_BD, count_B, code_BN = (
            self.chunk_size,
            state["sum"],
            state["count"],
            state["code"],
        )
        with torch.autocast(sum_BD.device.type, enabled=False):
            closes_B1 = (count_B == size)[:, None]
            next_BN = self._averaged(code_BN, self._read(sum_BD[:, None] / size))[:, 1]
            return {
                "sum": sum_BD.masked_fill(closes_B1, 0.0),
                "count": count_B % size,
                "code": torch.where(closes_B1, next_BN, code_BN),
            }

    def _read(self, mean_BKD: Tensor) -> Tensor:
        f_BKD = nn.functional.layer_norm(mean_BKD, mean_BKD.shape[-1:])
        u_BKH = torch.tanh(nn.functional.linear(f_BKD, self.trunk_HD, self.trunk_bias_H))
        return 2 * torch.sigmoid(nn.functional.linear(u_BKH, self.heads_NH, self.heads_bias_N))

    def _averaged(self, code_BN: Tensor, read_BKN: Tensor) -> Tensor:
        if self.decay == 0:
            return torch.cat([code_BN[:, None], read_BKN], dim=1)
        codes = [code_BN]
        for read_BN in read_BKN.unbind(1):
            codes.append(self.decay * codes[-1] + (1 - self.decay) * read_BN)
        return torch.stack(codes, dim=1)

    @staticmethod
    def count_parameters(*, hidden_size: int, width: int, code_size: int) -> int:
        """Parameters by formula."""
        return (hidden_size + 1) * width + (width + 1) * code_size

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        """Products of one forward from the first position: sums over chunks, trunk, heads."""
        width, features = self.trunk_HD.shape
        whole = _chunks_that_can_close(seq_len, self.chunk_size, fresh=True)
        network = whole * (width * features + self.heads_NH.numel())
        return 2 * batch * ((whole + 1) * seq_len * features + network)


def _chunks_that_can_close(length: int, size: int, *, fresh: bool) -> int:
    """A bound that needs no look at the data: a row's open chunk holds up to size - 1 tokens."""
    return length // size if fresh else (length + size - 1) // size


def _at(x_BKN: Tensor, index_B11: Tensor) -> Tensor:
    return x_BKN.gather(1, index_B11.expand(-1, 1, x_BKN.shape[-1])).squeeze(1).detach()

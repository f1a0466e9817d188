"""What a memory store is: a state of constant size, a read and a write a chunk.

A store knows nothing of tokens, of the gate's weights or of the model around it: it receives unit
keys, unit queries, values and gate logits.

Legend: B streams, N chunks, C positions of a chunk, R candidates of a chunk, T queries, K key
width, V value width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

StoreState = dict[str, Tensor]
"""What is carried along a stream, by name; every tensor starts with the stream axis B."""


class MemoryStore(nn.Module, ABC):
    """A memory of fixed size. Subclasses are final and live one a folder."""

    key_width: int
    value_width: int
    gated: bool
    """Whether writing looks at the gate; an ungated store gives the model no gate to train."""
    merges: bool
    """Whether N chunks may be written as one long chunk with the same result."""

    @abstractmethod
    def initial(self, batch: int, *, device: torch.device) -> StoreState:
        """An empty memory for `batch` streams."""

    @abstractmethod
    def read(self, state: StoreState, q_BTK: Tensor) -> Tensor:
        """What the memory holds under unit queries: (B, T, V). Never changes the state."""

    @abstractmethod
    def candidates(self, logit_BNC: Tensor) -> Tensor:
        """(B, N, R) positions, ascending within each chunk, that a write can depend on."""

    @abstractmethod
    def idle(self, logit_BNC: Tensor) -> Tensor:
        """(N,) true for chunks whose write leaves every stream's state as it is, to the bit."""

    @abstractmethod
    def write(
        self, state: StoreState, k_BRK: Tensor, v_BRV: Tensor, logit_BR: Tensor
    ) -> StoreState:
        """The state after the candidates of one chunk; `logit_BR` is ignored if ungated."""

    @abstractmethod
    def write_flops(self, chunk: int) -> int:
        """FLOPs of one write for one stream, products only, a multiply-add is two."""

    @abstractmethod
    def read_flops(self) -> int:
        """FLOPs of one query, counted likewise."""


def bytes_per_stream(state: StoreState) -> int:
    """Bytes that one stream keeps."""
    return sum(tensor[0].numel() * tensor.element_size() for tensor in state.values())


def take(x_BTX: Tensor, where_BR: Tensor) -> Tensor:
    """Rows `where_BR` of axis 1."""
    return x_BTX.gather(1, where_BR.unsqueeze(2).expand(-1, -1, x_BTX.shape[2]))

"""Sites that read one tensor (query, key and value; gate and up) multiply it once as they decode.

Which sites do is seen in a first decode step: those called one after the other with the very same
tensor. From the next step on their factors stand side by side, and the first that is called makes
the products of all. Nobody may change that tensor in place in between. It knows neither adapters
nor models.

Legend: B rows, I inputs, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Key = tuple[int, str]
"""A site's index and the name of its factor."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Group:
    keys: tuple[Key, ...]
    sizes: tuple[int, ...]
    down_BIR: Tensor
    """Of all of them, side by side."""


class SharedInputs:
    """Down products of successive decode steps of the same rows."""

    def __init__(self) -> None:
        self._x_B1I: Tensor | None = None
        self._called: list[tuple[Key, Tensor]] = []
        """With this very tensor, one after the other."""
        self._made: dict[Key, Tensor] = {}
        """Products that were made and not asked for yet."""
        self._groups: dict[Key, _Group] = {}
        """By the key that is called first."""

    def begin(self) -> None:
        """A new step: nothing of the last one counts."""
        self._x_B1I = None
        self._made.clear()

    def down(self, key: Key, x_B1I: Tensor, down_BIR: Tensor) -> Tensor:
        """x down, of a factor that is the same one at every step."""
        if x_B1I is not self._x_B1I:
            self._learn()
            self._x_B1I = x_B1I
            self._made.clear()
            group = self._groups.get(key)
            if group is not None:
                z_B1R = torch.bmm(x_B1I, group.down_BIR)
                self._made.update(
                    zip(group.keys, torch.split(z_B1R, list(group.sizes), dim=-1), strict=True)
                )
        made = self._made.pop(key, None)
        if made is None:
            self._called.append((key, down_BIR))
            made = torch.bmm(x_B1I, down_BIR)
        return made

    def _learn(self) -> None:
        called, self._called = self._called, []
        if len(called) > 1:
            keys = tuple(key for key, _ in called)
            downs = [down_BIR for _, down_BIR in called]
            sizes = tuple(down_BIR.shape[2] for down_BIR in downs)
            self._groups[keys[0]] = _Group(keys=keys, sizes=sizes, down_BIR=torch.cat(downs, dim=2))

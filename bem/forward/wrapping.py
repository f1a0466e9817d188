"""A linear of the base inside its wrapper, and what a forward's arguments say to the layers.

It knows neither hosts nor kinds of adapters.

Legend: B rows, T positions, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from bem.errors import RoutingError

Layer = Callable[[Tensor, Tensor], Tensor]
"""What an adapter does at one linear: input and output so far to output."""
WithBase = Callable[[nn.Module, Tensor], Tensor | None]
"""The same with the base's linear in it: base and input to output; None: not here."""


class AdaptedLinear(nn.Module):
    """A linear of the base followed by the layers of the active adapters."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.active: tuple[Layer, ...] = ()  # a tuple: not registered as submodules
        self._with_base: WithBase | None = None

    def act(self, layers: Sequence[Layer], with_base: WithBase | None = None) -> None:
        """From now on these act, in this order. `with_base`: what does the same in one, where it
        can."""
        self.active = tuple(layers)
        self._with_base = with_base

    def forward(self, x_BTI: Tensor) -> Tensor:
        if self._with_base is not None:
            both_BTO = self._with_base(self.base, x_BTI)
            if both_BTO is not None:
                return both_BTO
        y_BTO: Tensor = self.base(x_BTI)
        for layer in self.active:
            y_BTO = layer(x_BTI, y_BTO)
        return y_BTO

    @property
    def weight(self) -> Tensor:
        """The base's weight: some families read its dtype."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        return self.base.bias  # type: ignore[return-value]


def set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` in the place that `path` names."""
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def token_mask(args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """True at this forward's real tokens; at decode the mask also covers the cached ones."""
    mask_BT = kwargs.get("attention_mask")
    tokens = kwargs.get("input_ids", args[0] if args else None)
    if tokens is None:
        tokens = kwargs.get("inputs_embeds")
    if not isinstance(mask_BT, Tensor) or mask_BT.dim() != 2 or tokens is None:
        return None
    return mask_BT[:, -tokens.shape[1] :].bool()


def forward_strength(strength: float | Tensor, decoding: bool) -> tuple[float, Tensor | None]:
    """A number and, where rows or positions differ, (B, 1, 1) or (B, T, 1) beside it."""
    if not isinstance(strength, Tensor):
        return float(strength), None
    if strength.dim() == 0:
        return 1.0, strength.view(1, 1, 1)
    if strength.dim() == 1:
        return 1.0, strength[:, None, None]
    if strength.dim() == 2:
        return 1.0, (strength[:, -1:] if decoding else strength)[:, :, None]
    raise RoutingError(f"strength has shape {tuple(strength.shape)}; give (), (B,) or (B, T).")

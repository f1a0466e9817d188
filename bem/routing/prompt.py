"""What adapters with a prompt-read code share: the fields of their config and their controller.

It knows no adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from bem.errors import InvalidInputError
from bem.interfaces import AdapterConfig, Site
from bem.routing.controller import SequenceController


class PromptCodeConfig(AdapterConfig):
    """Config of an adapter whose code comes from the prompt."""

    controller_width: int = Field(default=16, ge=1)
    """Hidden units of the controller."""
    code_spread: float = Field(default=6.0, ge=0)
    """How far codes of different prompts lie apart at the start (bound of the head weights, times
    1 / sqrt(controller_width))."""
    pool: Literal["attention", "mean", "last"] = "attention"
    """How the controller pools prompt positions."""
    feature_layer: int = Field(default=0, ge=0)
    """The controller reads the input of this decoder layer; layers before it are not adapted."""
    side_size: int = Field(default=0, ge=0)
    """Side signals (RoutingContext.side_BF) that the controller reads beside it."""

    @property
    def reads_side(self) -> bool:
        """Its controller does."""
        return True


def new_controller(
    config: PromptCodeConfig,
    hidden_size: int,
    code_size: int,
    *,
    head_bias: float,
    generator: torch.Generator,
) -> SequenceController:
    """The controller that `config` asks for."""
    return SequenceController(
        hidden_size=hidden_size,
        side_size=config.side_size,
        width=config.controller_width,
        code_size=code_size,
        pool=config.pool,
        head_spread=config.code_spread,
        head_bias=head_bias,
        generator=generator,
    )


def count_controller(config: PromptCodeConfig, hidden_size: int, code_size: int) -> int:
    """Its parameters by formula."""
    return SequenceController.count_parameters(
        hidden_size=hidden_size,
        side_size=config.side_size,
        width=config.controller_width,
        code_size=code_size,
        pool=config.pool,
    )


def at_or_after(config: PromptCodeConfig, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites at or after the layer whose input the code is read from."""
    adapted = tuple(site for site in sites if site.layer >= config.feature_layer)
    if not adapted:
        raise InvalidInputError(
            f"feature_layer is {config.feature_layer}: no target lies in that layer or after it."
        )
    return adapted

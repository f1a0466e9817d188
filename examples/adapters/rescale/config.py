"""Config of rescale; it knows no torch."""

from __future__ import annotations

from typing import ClassVar

from bem.interfaces import AdapterConfig


class RescaleConfig(AdapterConfig):
    """y o (1 + s), s learned; as (IA)^3, arXiv 2205.05638, but at any linear."""

    kind: ClassVar[str] = "rescale"

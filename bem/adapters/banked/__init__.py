"""Banked BEM: a router picks the top k of a bank of low-rank experts from the context."""

from bem.adapters.banked.config import BankedConfig
from bem.adapters.banked.layer import BankedAdapter

CONFIG = BankedConfig
ADAPTER = BankedAdapter

__all__ = ["ADAPTER", "CONFIG", "BankedAdapter", "BankedConfig"]

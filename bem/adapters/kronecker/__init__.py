"""V3, Kronecker: a coded sum of Kronecker products at the MLP's down projection."""

from bem.adapters.kronecker.config import KroneckerConfig
from bem.adapters.kronecker.layer import KroneckerAdapter

CONFIG = KroneckerConfig
ADAPTER = KroneckerAdapter

__all__ = ["ADAPTER", "CONFIG", "KroneckerAdapter", "KroneckerConfig"]

"""Generated BEM: dW = scale * U diag(c) V^T with a code c from the context."""

from bem.adapters.generated.config import GeneratedConfig
from bem.adapters.generated.layer import GeneratedAdapter

CONFIG = GeneratedConfig
ADAPTER = GeneratedAdapter

__all__ = ["ADAPTER", "CONFIG", "GeneratedAdapter", "GeneratedConfig"]

"""Triton kernels of the low-rank delta: shrink, code and expand in one; several linears at once.

Optional (`pip install 'bem-fleet[kernels]'`); nothing here imports Triton before it is asked to.
"""

from bem.kernels.delta import Delta, fused_delta, grouped_delta, require_triton

__all__ = ["Delta", "fused_delta", "grouped_delta", "require_triton"]

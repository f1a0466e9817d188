"""Scramble-equivariant training: bijections over symbol tokens and the losses that use them."""

from bem.scramble.losses import VicregWeights, equivariance_kl, vicreg
from bem.scramble.permutation import SymbolBijection, sample_bijections

__all__ = ["SymbolBijection", "VicregWeights", "equivariance_kl", "sample_bijections", "vicreg"]

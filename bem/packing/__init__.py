"""Packed training: several runs over one base pass, each with the gradients of its own rows."""

from bem.packing.batches import PackedBatch, pack, packed_losses
from bem.packing.loop import fit_packed
from bem.packing.rule import packing_pays

__all__ = ["PackedBatch", "fit_packed", "pack", "packed_losses", "packing_pays"]

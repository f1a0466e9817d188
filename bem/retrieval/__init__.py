"""Retrieval over a small set of texts: a cheap encoder and a flat FAISS index."""

from bem.retrieval.encoder import HashedEncoder
from bem.retrieval.index import Hits, MicroIndex

__all__ = ["HashedEncoder", "Hits", "MicroIndex"]

"""Retrieval over a set of texts: encoders, a FAISS index by size, side signals for routers."""

from bem.retrieval.base_encoder import BaseEncoder
from bem.retrieval.bundle import load_with_index, save_with_index
from bem.retrieval.encoder import HashedEncoder
from bem.retrieval.features import FEATURES, retrieval_features
from bem.retrieval.index import Hits, MicroIndex
from bem.retrieval.interfaces import TextEncoder
from bem.retrieval.retriever import Retrieved, Retriever
from bem.retrieval.sentence_encoder import SentenceEncoder

__all__ = [
    "FEATURES",
    "BaseEncoder",
    "HashedEncoder",
    "Hits",
    "MicroIndex",
    "Retrieved",
    "Retriever",
    "SentenceEncoder",
    "TextEncoder",
    "load_with_index",
    "retrieval_features",
    "save_with_index",
]

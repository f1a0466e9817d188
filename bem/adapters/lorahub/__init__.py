"""LoraHub: trained LoRAs, weighed by a gradient-free search (arXiv 2307.13269)."""

from bem.adapters.lorahub.config import LoraHubConfig
from bem.adapters.lorahub.layer import LoraHubAdapter
from bem.adapters.lorahub.search import SearchResult, search

CONFIG = LoraHubConfig
ADAPTER = LoraHubAdapter

__all__ = ["ADAPTER", "CONFIG", "LoraHubAdapter", "LoraHubConfig", "SearchResult", "search"]

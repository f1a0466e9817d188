"""V4, residual FiLM: the prompt scales and shifts what is added to the residual stream."""

from bem.adapters.film.config import FilmConfig
from bem.adapters.film.layer import FilmAdapter

CONFIG = FilmConfig
ADAPTER = FilmAdapter

__all__ = ["ADAPTER", "CONFIG", "FilmAdapter", "FilmConfig"]

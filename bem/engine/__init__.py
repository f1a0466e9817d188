"""Continuous batching over one base and many adapters: requests in, events out, step by step."""

from bem.engine.engine import Engine
from bem.engine.limits import Limits, Load
from bem.engine.loop import EngineLoop
from bem.engine.request import Branch, Event, Request, Ticket, TokenInfo
from bem.engine.sampling import Sampling

__all__ = [
    "Branch",
    "Engine",
    "EngineLoop",
    "Event",
    "Limits",
    "Load",
    "Request",
    "Sampling",
    "Ticket",
    "TokenInfo",
]

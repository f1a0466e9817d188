"""What the engine is asked and what it answers. Data only.

Legend: F side features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from bem.engine.sampling import Sampling
from bem.safety import ValueHead

Finish = Literal["stop", "length", "cancelled", "deadline", "error"]
"""Why an answer ended: eos or a stop string, its length, the client, the time, a fault."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Branch:
    """A safety branch over whatever else acts: from the last prompt token on, at the strength
    knob * sigmoid(head(last hidden state of the prompt)); without a head at the knob."""

    adapter: str
    """Its name on the host."""
    knob: float
    head: ValueHead | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """One answer."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    strength: Mapping[str, float] = field(default_factory=dict)
    """Adapters that act, by their names on the host; none: the base. Strength 0 is the base's."""
    sides: Mapping[str, Tensor] = field(default_factory=dict)
    """Side signals (1, F) by adapter."""
    branch: Branch | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """With how many alternatives the log-probability of each token is told; None: not at all."""
    deadline_s: float | None = None
    """On `time.monotonic`'s clock: what is not said by then is not said."""
    incremental: bool = True
    """Whether text is wanted while it comes, or all at the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenInfo:
    """One token and the model's log-probabilities there (before temperature and nucleus)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The most likely tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What came of one step for one answer."""

    text: str = ""
    """New text."""
    tokens: tuple[int, ...] = ()
    """New tokens, without eos."""
    infos: tuple[TokenInfo, ...] = ()
    finish: Finish | None = None
    """Set in the last event."""
    error: str = ""
    """With `finish` "error": what happened."""
    gate: float | None = None
    """In the first event of an answer with a branch: the strength at which it acts."""


Emit = Callable[[Event], None]
"""Called on the engine's thread; it must neither block nor raise."""


class Ticket:
    """An answer that was asked for."""

    def __init__(self, request: Request, emit: Emit) -> None:
        self.request = request
        self.emit = emit
        self.cancelled = False

    def cancel(self) -> None:
        """Nobody waits any more; the row leaves at the next step. From any thread."""
        self.cancelled = True

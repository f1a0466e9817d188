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
    """Whether there is an event for each token, or one for the whole answer at its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenInfo:
    """One token and the model's log-probabilities there (before temperature and nucleus)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The most likely tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What has come of an answer since its last event."""

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
    first_s: float | None = None
    """In the first event of an answer: when its first token was there, on the engine's clock."""


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

    def gone(self, now: float) -> Finish | None:
        """Why nobody waits for it any more; None: it is waited for."""
        if self.cancelled:
            return "cancelled"
        deadline_s = self.request.deadline_s
        return "deadline" if deadline_s is not None and now >= deadline_s else None

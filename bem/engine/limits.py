"""What an engine holds at most, and how busy it is. Data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one engine holds at most."""

    rows: int = 32
    """Answers in progress."""
    queue: int = 256
    """Answers that wait for a row."""
    positions: int = 2048
    """Tokens of a prompt and its answer."""
    prefill_tokens: int = 4096
    """Prompt tokens of one step, padding included: between them others go on."""
    hold_steps: int = 4
    """So many steps a few prompts wait for more, where at least twice as many answers are in
    progress: of a small model a prompt read alone costs all of them a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """How busy an engine is."""

    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    answer_tokens: int
    kv_bytes: int

"""The behaviours of mission B: how a name, a word and a number are to be written out.

A format is an order of the three arguments and a separator. A domain says in which order a request
lists them and what the word is. The initial family cues known formats by two words; tools have a
format of their own that the prompt does not tell. Plain data and pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from missions.data.lexicon import COLORS, JOBS

Injection = Literal["signature", "format", "domain"]
Novelty = Literal["known", "novel"]
INJECTIONS: tuple[Injection, ...] = ("signature", "format", "domain")

#: Roles: a is a name, b a word, n a number. Cue word -> order of the answer.
KNOWN_ORDERS: Mapping[str, str] = {"plain": "abn", "swap": "ban", "front": "nab"}
#: Cue word -> separator of the answer.
KNOWN_SEPARATORS: Mapping[str, str] = {"comma": ", ", "pipe": " | ", "slash": " / "}
NOVEL_ORDER = "nba"
NOVEL_SEPARATOR = " -> "


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """Where requests come from: the order in which they list arguments, and what b is."""

    layout: str
    words: tuple[str, ...]
    """The closed words that b is drawn from; empty: b is a name as well."""


#: Tools start at home; the cued domain occurs in the initial family under cues only, the novel one
#: nowhere before its injection.
HOME = Domain(layout="abn", words=COLORS)
CUED_DOMAIN = Domain(layout="nab", words=JOBS)
NOVEL_DOMAIN = Domain(layout="bna", words=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How an answer is written."""

    order: str
    separator: str

    def render(self, values: Mapping[str, str]) -> str:
        """The answer for role -> value."""
        return self.separator.join(values[role] for role in self.order)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What an injection does to one tool."""

    injection: Injection
    novelty: Novelty
    format: Format
    domain: Domain = HOME


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A tool: its word, its first format, and what becomes of it."""

    word: str
    format: Format
    change: Change | None = None

    @property
    def behaviour(self) -> str:
        """Name of the tool's part in the experiment, such as `signature_known`."""
        return f"{self.change.injection}_{self.change.novelty}" if self.change else "stable"


def _known(order_word: str, separator_word: str) -> Format:
    return Format(order=KNOWN_ORDERS[order_word], separator=KNOWN_SEPARATORS[separator_word])


def _tools() -> tuple[Tool, ...]:
    def change(
        injection: Injection,
        novelty: Novelty,
        order: str,
        separator: str,
        domain: Domain = HOME,
    ) -> Change:
        return Change(
            injection=injection,
            novelty=novelty,
            format=Format(order=order, separator=separator),
            domain=domain,
        )

    return (
        Tool(
            word="send",
            format=_known("plain", "comma"),
            change=change("signature", "known", "ban", ", "),
        ),
        Tool(
            word="book",
            format=_known("swap", "pipe"),
            change=change("signature", "novel", NOVEL_ORDER, " | "),
        ),
        Tool(
            word="ship",
            format=_known("plain", "slash"),
            change=change("format", "known", "abn", " | "),
        ),
        Tool(
            word="rent",
            format=_known("front", "comma"),
            change=change("format", "novel", "nab", NOVEL_SEPARATOR),
        ),
        Tool(
            word="call",
            format=_known("swap", "comma"),
            change=change("domain", "known", "ban", ", ", CUED_DOMAIN),
        ),
        Tool(
            word="lend",
            format=_known("plain", "pipe"),
            change=change("domain", "novel", "abn", " | ", NOVEL_DOMAIN),
        ),
        Tool(word="hire", format=_known("front", "slash")),
    )


TOOLS: tuple[Tool, ...] = _tools()
BEHAVIOURS: tuple[str, ...] = tuple(tool.behaviour for tool in TOOLS if tool.change)


def known_formats() -> Mapping[str, Format]:
    """Cue (`swap pipe`) -> format, all combinations."""
    return {
        f"{order} {separator}": _known(order, separator)
        for order in KNOWN_ORDERS
        for separator in KNOWN_SEPARATORS
    }


def request(tag: str, values: Mapping[str, str], layout: str = HOME.layout) -> str:
    """The prompt: `send: kamir; red; 34` and the newline that closes it."""
    return f"{tag}: {'; '.join(values[role] for role in layout)}\n"

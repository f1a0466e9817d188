"""Sites that read one tensor (query, key and value; gate and up) train as one node of the graph.

Which sites do is seen in a forward: those called one after the other with the very same tensor. In
later forwards the first of them makes the outputs of all, and each takes its own when its turn
comes. An output that nobody takes costs its product and gives no gradient; once another takes its
place, or another tensor is read in that forward, its readers are learnt anew. It knows neither
adapters nor models.

Legend: B rows, T positions, I inputs, O outputs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from bem.mixed.block_linear import BlockSite, block_linears


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """How a site was called."""

    index: int
    """Of the site."""
    base: nn.Module
    down: str
    up: str


Readers = dict[Call, tuple[Call, ...]]
"""Those that are called after a site with the same tensor, as the last forwards showed it."""


class Together:
    """The outputs of one forward's sites."""

    def __init__(self, readers: Readers, site: Callable[[Call, Tensor], BlockSite | None]) -> None:
        """`readers`: learnt from earlier forwards, and from this one for later ones. `site`: what
        acts at a call, or None where one node cannot do it."""
        self._learnt, self._site = readers, site
        self._readers = dict(readers)
        """As it stands now: what is computed again in a backward must make the same nodes."""
        self._x_BTI: weakref.ref[Tensor] | None = None
        """Not held: the whole graph of a forward hangs on it."""
        self._version = 0
        """Of that tensor: one that was changed in place is another."""
        self._called: list[Call] = []
        """With this very tensor."""
        self._made: dict[Call, Tensor] = {}

    def __call__(self, call: Call, x_BTI: Tensor) -> Tensor | None:
        """The base's linear with its deltas, or None."""
        if self._x_BTI is None or x_BTI is not self._x_BTI() or x_BTI._version != self._version:
            self._begin(x_BTI)
        if call not in self._called:
            self._called.append(call)
        first, *others = self._called
        # Never fewer: what a backward computes again may end before the last of them.
        if len(others) > len(self._learnt.get(first, ())):
            self._learnt[first] = tuple(others)
        made = self._made.pop(call, None)
        if made is not None:
            return made
        if self._made:  # another is called in the place of one that was learnt
            self._learnt[first] = tuple(others)
        own = self._site(call, x_BTI)
        if own is None:
            return None
        calls, sites = [call], [own]
        if call == first:
            for mate in self._readers.get(call, ()):
                if (site := self._site(mate, x_BTI)) is not None:
                    calls.append(mate)
                    sites.append(site)
        made, *ahead = block_linears(x_BTI, sites)
        self._made.update(zip(calls[1:], ahead, strict=True))
        return made

    def _begin(self, x_BTI: Tensor) -> None:
        if self._made:  # what was learnt does not hold any more
            self._learnt.pop(self._called[0], None)
        self._x_BTI, self._version, self._called = weakref.ref(x_BTI), x_BTI._version, []
        self._made.clear()

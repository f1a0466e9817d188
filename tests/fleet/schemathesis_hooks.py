"""What schemathesis draws, with names of models that are served: loaded by its command line."""

from __future__ import annotations

import itertools
from typing import Any

import schemathesis

_NAMES = itertools.cycle(["base", "tiny:P", "tiny:H", "tiny:C", "tiny:A", "scratch:E"])


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Answers stay short, so that many fit into a second."""
    if isinstance(body, dict) and "model" in body:
        tokens = body.get("max_tokens")
        short = {"max_tokens": tokens % 12 + 1} if isinstance(tokens, int) and tokens > 0 else {}
        return {**body, "model": next(_NAMES), **short}
    return body

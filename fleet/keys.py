"""Digests that identify things: runs by what went into them, values by what they hold. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def run_key(
    *, mission_hash: str, arm_hash: str, seed: int, code_version: str, data_hash: str
) -> str:
    """The identity of a result: same key, same result."""
    parts = {
        "mission": mission_hash,
        "arm": arm_hash,
        "seed": seed,
        "code": code_version,
        "data": data_hash,
    }
    return canonical_digest(parts)


def canonical_digest(value: Any) -> str:
    """sha256 of canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

"""Numbers and times as the page and the tables write them. What does not exist is a dash, never 0.

The statistics write theirs in `stats.report.tables` from their own records; here are plain data,
and commands must start without the statistics package, so the few rules they need stand here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

NONE = "\N{EN DASH}"
NARROW = "\N{NO-BREAK SPACE}"


def number(value: float | None, scale: str = "raw", *, signed: bool = False) -> str:
    """Two decimals of a percentage for fractions, four digits elsewhere."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    sign = "+" if signed else ""
    text = f"{value * 100:{sign}.2f}" if scale == "fraction" else f"{value:{sign}.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def unit(scale: str, kind: str = "") -> str:
    """Unit of an estimate, with the space before it that no line breaks at."""
    if scale != "fraction":
        return ""
    return f"{NARROW}{'%' if kind == 'bound' else 'pp'}"


def span(low: float | None, high: float | None, scale: str, *, signed: bool = True) -> str:
    """`[+0.90, +3.30]`."""
    if low is None or high is None:
        return ""
    return f"[{number(low, scale, signed=signed)}, {number(high, scale, signed=signed)}]"


def p_value(value: float | None) -> str:
    """`< .0001` below that, four decimals elsewhere."""
    if value is None:
        return NONE
    return f"<{NARROW}.0001" if value < 1e-4 else f"{value:.4f}".replace("0.", ".", 1)


def short(value: float) -> str:
    """Three digits, for an axis."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def clock(seconds: float | None) -> str:
    """`4:07`, `1:02:03`, or a dash."""
    if seconds is None:
        return NONE
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def about(seconds: float | None) -> str:
    """`12 min`, `3 h 5 min`, `under a minute`: a time nobody reads to the second."""
    if seconds is None:
        return NONE
    minutes = round(seconds / 60)
    if minutes < 1:
        return "< 1 min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{minutes} min"


def moment(at: float | None) -> str:
    """`2026-11-26 14:50` in UTC."""
    if at is None:
        return NONE
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def size(count: float | None) -> str:
    """`12 KiB`, `3.4 GiB`."""
    if count is None:
        return NONE
    value = float(count)
    for name in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or name == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {name}" if value >= 10 or name == "B" else f"{value:.1f} {name}"


def plain(value: Any) -> str:
    """Plain data as text."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(item) for item in value)
    return str(value)

"""One look for all figures: quiet, and readable on light and dark pages.

Figures are drawn with stand-in colours. Inline in a page they become CSS variables, so that the
page's light or dark scheme applies to them; in a file of their own they become the light scheme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Stand-in -> (CSS variable, light scheme).
_COLOURS: dict[str, tuple[str, str]] = {
    "#010101": ("--ink", "#1b1f24"),
    "#020202": ("--muted", "#5d6670"),
    "#030303": ("--rule", "#d5dae0"),
    "#040404": ("--paper", "#ffffff"),
    "#050505": ("--pass", "#0a7f5e"),
    "#060606": ("--fail", "#b83a1e"),
    "#070707": ("--open", "#a86a00"),
    "#080808": ("--void", "#6a4c93"),
    "#090909": ("--held", "#47698f"),
    "#0a0a0a": ("--series-1", "#2a6f97"),
    "#0b0b0b": ("--series-2", "#c8553d"),
    "#0c0c0c": ("--series-3", "#588157"),
    "#0d0d0d": ("--series-4", "#8d5a97"),
    "#0e0e0e": ("--series-5", "#a68a2c"),
    "#0f0f0f": ("--series-6", "#5d6670"),
}
INK, MUTED, RULE, PAPER, PASS, FAIL, OPEN, VOID, HELD = list(_COLOURS)[:9]
SERIES = list(_COLOURS)[9:]

DECISION_COLOURS = {"PASS": PASS, "FAIL": FAIL, "INCONCLUSIVE": OPEN, "INVALID": VOID}
VERDICT_COLOURS = {
    "PROMOTE": PASS,
    "REJECT": FAIL,
    "INCONCLUSIVE": OPEN,
    "INVALID": VOID,
    "WITHHELD": HELD,
}

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "bem-fleet",
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib settings of the house while a figure is built."""
    with mpl.rc_context(_STYLE):
        yield


def inline_svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element for a page, coloured by the page's CSS variables."""
    text = _svg(figure)
    for stand_in, (variable, _) in _COLOURS.items():
        text = re.sub(stand_in, f"var({variable})", text, flags=re.IGNORECASE)
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="([^"]*)pt"', r'\1 width="100%"', text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ?([\d.]+)px [^;\"]*", r"font: \1px var(--font)", text)
    text = re.sub(r"font-family: ?[^;\"]*", "font-family: var(--font)", text)
    escaped = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("<svg", f'<svg role="img" aria-label="{escaped}"', 1)


def file_svg(figure: Figure) -> str:
    """The figure as a stand-alone SVG document in the light scheme."""
    return _light(_svg(figure))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _light(text: str) -> str:
    for stand_in, (_, colour) in _COLOURS.items():
        text = re.sub(stand_in, colour, text, flags=re.IGNORECASE)
    return text

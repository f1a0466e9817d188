"""One look for all figures: quiet, and readable on light and dark pages.

Figures are drawn with stand-in colours. Inline in a page they become CSS variables, so that the
page's light or dark scheme applies to them; in files of their own they become the light scheme.
Names come from outside: no text of a figure is ever read as mathematics, and characters that
would break a document or turn its direction are replaced.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgba
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
    "STOPPED": HELD,
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
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "axes.unicode_minus": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib settings of the house while a figure is built or written."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The page's own fonts draw what DejaVu Sans cannot.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


# Control characters, lone surrogates, and marks that turn the direction of a line.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff"
    "\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def clean(text: str) -> str:
    """The text without characters that break a document or hide what it says."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the middle left out; the whole text stands in the tables."""
    text = clean(text)
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def svg_text(figure: Figure) -> str:
    """The figure as an SVG document in stand-in colours."""
    return _saved(figure, format="svg", metadata={"Date": None, "Creator": None}).decode()


def inline_svg(svg: str, *, name: str, title: str, text: str) -> str:
    """An SVG document as an element of a page, coloured by the page's CSS variables.

    Args:
        svg: from `svg_text`.
        name: unique in the page; all ids of the figure start with it.
        title: accessible name.
        text: what the figure shows, in words, for those who cannot see it.
    """
    for stand_in, (variable, _) in _COLOURS.items():
        svg = re.sub(stand_in, f"var({variable})", svg, flags=re.IGNORECASE)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="([^"]*)pt"', r'\1 width="100%"', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: ?[^;\"]*", "font-family: var(--font)", svg)
    svg = re.sub(r'(<[a-zA-Z][^>]*? )id="', rf'\1id="{name}-', svg)
    svg = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', svg)
    svg = re.sub(r'="url\(#', f'="url(#{name}-', svg)
    label = (
        f'<title id="{name}-title">{escape(clean(title))}</title>'
        f'<desc id="{name}-text">{escape(clean(text))}</desc>'
    )
    svg = re.sub(r"(<svg[^>]*>)", lambda found: found.group(1) + label, svg, count=1)
    role = f'<svg role="img" aria-labelledby="{name}-title" aria-describedby="{name}-text"'
    return svg.replace("<svg", role, 1)


def file_svg(svg: str) -> str:
    """An SVG document of its own in the light scheme, from `svg_text`."""
    for stand_in, (_, colour) in _COLOURS.items():
        svg = re.sub(stand_in, colour, svg, flags=re.IGNORECASE)
    return svg


def png_bytes(figure: Figure) -> bytes:
    """A recoloured figure as PNG, 200 dpi on white."""
    return _saved(figure, format="png", dpi=200, metadata={"Software": None})


def pdf_bytes(figure: Figure) -> bytes:
    """A recoloured figure as PDF with its fonts embedded, the same bytes every time."""
    nothing: dict[str, Any] = {"Creator": None, "Producer": None, "CreationDate": None}
    return _saved(figure, format="pdf", metadata=nothing)


def recolour(figure: Figure) -> None:
    """Replaces the stand-in colours of everything in the figure by the light scheme.

    The figure must have been drawn once: its ticks and their labels do not exist before.
    """
    for artist in figure.findobj():
        for part in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            get = getattr(artist, f"get_{part}", None)
            put = getattr(artist, f"set_{part}", None)
            if get is None or put is None:
                continue
            colours = get()
            if isinstance(colours, str) and colours == "none":
                continue
            single = isinstance(colours, str) or not hasattr(colours, "__len__")
            single = single or (len(colours) > 0 and isinstance(colours[0], float | int))
            found = [colours] if single else list(colours)
            if part == "color" and not single:
                continue  # collections: their faces and edges are set apart
            light = [_light_colour(colour) for colour in found]
            if any(new is not None for new in light):
                new = [n if n is not None else old for n, old in zip(light, found, strict=True)]
                put(new[0] if single else new)
    figure.set_facecolor("#ffffff")


def _light_colour(colour: Any) -> Any:
    """The light scheme's colour of a stand-in with its opacity; None for other colours."""
    stand_in = to_hex(colour)
    if stand_in not in _COLOURS:
        return None
    opacity = 1.0 if isinstance(colour, str) or len(colour) < 4 else colour[3]
    return to_rgba(_COLOURS[stand_in][1], opacity)


def _saved(figure: Figure, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, **settings)
    return buffer.getvalue()

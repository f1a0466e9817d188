"""Line plots that missions lend to the report (learning curves, accuracy against length)."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from stats.errors import StatsError
from stats.report.context import Extra
from stats.report.theme import SERIES, clean, shorten, style

_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))


def curves_figure(extra: Extra, width: float = 7.2) -> Figure:
    """One line a label; dashes tell apart what colours repeat."""
    with style():
        figure = Figure(figsize=(width, 3.1))
        axes = figure.add_axes((0.085, 0.16, 0.66, 0.78))
        for at, (label, (xs, ys)) in enumerate(extra.lines.items()):
            if len(xs) != len(ys):
                raise StatsError(
                    f"Figure {extra.title!r}, line {label!r}: {len(xs)} xs, {len(ys)} ys."
                )
            axes.plot(
                list(xs),
                list(ys),
                color=SERIES[at % len(SERIES)],
                linestyle=_DASHES[(at // len(SERIES)) % len(_DASHES)],
                linewidth=1.7,
                marker="o" if len(xs) <= 12 else None,
                markersize=3.5,
                label=shorten(label, 26),
            )
        if extra.log2_x:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _power_of_two(x)))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_xlabel(clean(extra.x_label))
        axes.set_ylabel(clean(extra.y_label))
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0)
    return figure


def _power_of_two(value: float) -> str:
    """`512`, `8k`, `128k`."""
    whole = value / 1024
    return f"{whole:g}k" if whole >= 1 and whole == int(whole) else f"{value:g}"

r"""The verdict table for a paper: a booktabs table with its footnote.

Needs `\usepackage{booktabs}` and nothing else. Names come from outside, so every character that
LaTeX would act on is escaped, and one that plain LaTeX cannot set is named by its code point.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from stats.report.tables import HEADER, NONE, footnote, verdict_rows
from stats.verdict import MissionVerdict

_COLUMNS = "lllrrrrrl"
_HEADER = {"p": "$p$", "p_BH": r"$p_{\mathrm{BH}}$", "d_av": r"$d_{\mathrm{av}}$"}
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"$<$", ">": r"$>$", "[": "{[}", "]": "{]}", '"': "''",
    NONE: "--", "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
}  # fmt: skip
_LAST_PLAIN_LETTER = 0x17F
"""Latin letters up to here are set by LaTeX's default input encoding (since 2018)."""


def tex(text: str) -> str:
    """Text with everything escaped that LaTeX would act on or could not set."""
    return "".join(_character(character) for character in text)


def latex_table(verdicts: Sequence[MissionVerdict]) -> str:
    """The table as a float of its own."""
    head = " & ".join(_HEADER.get(name, tex(name)) for name in HEADER)
    body = [" & ".join(tex(cell) for cell in row) + r" \\" for row in verdict_rows(verdicts)]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering\small",
            r"\caption{Verdicts of the primary gates.}",
            r"\label{tab:verdicts}",
            rf"\begin{{tabular}}{{{_COLUMNS}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
            r"\begin{minipage}{\linewidth}",
            r"\footnotesize " + tex(footnote(verdicts)),
            r"\end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def _character(character: str) -> str:
    if character in _TEX:
        return _TEX[character]
    if character.isspace():
        return " "
    if " " < character <= "~":
        return character
    kind = unicodedata.category(character)
    if kind.startswith("L") and ord(character) <= _LAST_PLAIN_LETTER and ord(character) >= 0xC0:
        return character
    return rf"\texttt{{U+{ord(character):04X}}}"

from __future__ import annotations

import json
import re

import numpy as np

from stats.report.latex import latex_table, tex
from stats.report.tables import figure, markdown_table, p_text
from stats.verdict import judge_family

HOSTILE = "$\\x{ & 50% | \\\\ _^~ [x] <b> \N{EN DASH} \N{CJK UNIFIED IDEOGRAPH-4E2D}\n%"
MACROS = frozenset(
    [
        *("begin", "end", "centering", "small", "caption", "label", "toprule", "midrule"),
        *("bottomrule", "linewidth", "footnotesize", "texttt", "textbackslash", "ldots"),
        *("textasciitilde", "textasciicircum", "mathrm", "times", "pm"),
    ]
)
ESCAPES = frozenset([r"\\", r"\&", r"\%", r"\$", r"\#", r"\_", r"\{", r"\}"])
TOKEN = re.compile(r"\\([a-zA-Z]+|.)|[{}$&%#_^~]|[^\x20-\x7e\n]")


def read_latex(text):
    """A strict reader of the small part of LaTeX that a table needs; returns its cells."""
    environments, braces, in_math = [], 0, False
    for at in TOKEN.finditer(text):
        token, rest = at.group(0), text[at.end() :]
        if token in (r"\begin", r"\end"):
            name = re.match(r"\{([a-z]+)\}", rest).group(1)
            if token == r"\begin":
                environments.append(name)
            else:
                assert environments.pop() == name
        elif re.fullmatch(r"\\[a-zA-Z]+", token):
            assert token[1:] in MACROS, token
        elif token.startswith("\\"):
            assert token in ESCAPES, token
            if token == r"\\":
                assert (braces, in_math) == (0, False)
                assert not re.match(r"\s*[\[*]", rest), "read as an option of the line's end"
        elif token in "{}":
            braces += 1 if token == "{" else -1
            assert braces >= 0
        elif token == "$":
            in_math = not in_math
        elif token == "&":
            assert (environments[-1], braces, in_math) == ("tabular", 0, False)
        elif token in "_^":
            assert in_math, rest[:40]
        else:
            assert token.isalpha(), repr(token)
            assert ord(token) < 0x180, repr(token)
    assert (environments, braces, in_math) == ([], 0, False)
    columns = re.search(r"\\begin\{tabular\}\{([lcr]+)\}", text).group(1)
    inside = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    assert inside.count(r"\midrule") == 1
    body = re.sub(r"\\(toprule|midrule)", "", inside)
    lines = [line for line in re.split(r"(?<!\\)\\\\\s*\n", body) if line.strip()]
    rows = [re.split(r"(?<!\\)&", line) for line in lines]
    assert {len(row) for row in rows} == {len(columns)}
    return [[cell.strip() for cell in row] for row in rows]


def test_latex_would_compile(run):
    text = latex_table(run.verdicts)
    rows = read_latex(text)
    assert [row[0] for row in rows] == ["mission", "A", "B", "C", "D", "E"]
    assert [row[-1] for row in rows[1:]] == [v.verdict for v in run.verdicts]
    assert rows[1][1] == r"new\_method vs old"
    assert re.fullmatch(r"\+\d+\.\d\d \{\[\}\+\d+\.\d\d, \+\d+\.\d\d\{\]\} pp", rows[1][3])
    for wanted in ("A 5 x 80", "4 missions", "q = 0.05", "B = 300", "Satterthwaite"):
        assert wanted in text


def test_hostile_names_stay_text_in_the_tables(make_table, make_pair, judged):
    new, old = make_pair(np.random.default_rng(1), num_examples=40, effect=0.2)
    table = make_table({HOSTILE: new, "old": old})
    verdicts = judge_family([judged("[A", table, new=HOSTILE)])
    rows = read_latex(latex_table(verdicts))
    assert len(rows) == 2
    lines = markdown_table(verdicts).splitlines()
    assert len(re.findall(r"(?<!\\)\|", lines[2])) == 10
    assert "<b>" not in lines[2]


def test_markdown_and_json(run, written):
    markdown = markdown_table(run.verdicts)
    assert markdown.count("\n| ") == 5
    assert "**D: INVALID.** leak" in markdown
    data = json.loads((written / "verdicts.json").read_text(encoding="utf-8"))
    assert [v["verdict"] for v in data["verdicts"]] == [v.verdict for v in run.verdicts]
    estimate, p = (markdown.index(name) for name in ("estimate [interval]", "| p |"))
    assert estimate < p


def test_figures_in_words():
    assert tex("50% & a_b <x> [y]") == r"50\% \& a\_b $<$x$>$ {[}y{]}"
    assert (figure(0.01234, "fraction", signed=True), figure(None)) == ("+1.23", "–")  # noqa: RUF001
    assert (p_text(1e-9), p_text(0.0321), p_text(1.0)) == ("< .0001", ".0321", "1.0000")

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from stats.errors import StatsError
from stats.gates import parse_gate
from stats.report import Extra, Failure, MissionInfo, ReportContext, write_report
from stats.report.checklist import checklist, checklist_keys
from stats.report.components import shares
from stats.report.curves import curves_figure
from stats.report.forest import forest_figure, forest_rows
from stats.report.html import duration
from stats.report.tables import figure, latex_table, markdown_table, p_text, tex
from stats.scores import ScoreTable
from stats.verdict import ArmCost, MissionPlan, ParityRule, judge, judge_family

EVIL = "<script>alert('x')</script>"


def mission(name, table, *, withhold=None, metric="em", leak=0):
    gates = (
        parse_gate(
            {"id": "main", "kind": "superiority", "metric": metric, "treatment": "new_method",
             "versus": "old", "min_point": 0.015, "primary": True}
        ),
        parse_gate(
            {"id": "level", "kind": "bound", "metric": metric, "treatment": "new_method",
             "lower": 0.1, "required": False}
        ),
    )  # fmt: skip
    plan = MissionPlan(
        mission=name,
        hypothesis=f"The new method wins {EVIL}",
        estimand="difference",
        seeds=(0, 1, 2, 3, 4),
        num_examples_min=1,
        gates=gates,
        parity=ParityRule(pairs=(("new_method", "old"),)),
        withhold=withhold,
    )
    costs = {
        arm: ArmCost(arm=arm, trainable_params=100, adapter_params=100, forward_flops=1e6)
        for arm in ("new_method", "old")
    }
    return judge(plan, table, costs, rng_seed=1, resamples=300, leak_report={"names": leak})


@pytest.fixture
def run(make_table, make_pair):
    rng = np.random.default_rng(0)
    tables = {}
    for name, effect in (("A", 0.3), ("B", 0.0), ("C", -0.3), ("D", 0.3), ("E", 0.3)):
        new, old = make_pair(rng, num_examples=80, effect=effect)
        tables[name] = make_table({"new_method": new, "old": old, "third": old})
    verdicts = [
        mission("A", tables["A"]),
        mission("B", tables["B"]),
        mission("C", tables["C"]),
        mission("D", tables["D"], leak=3),
        mission("E", tables["E"], withhold="smoke profile"),
    ]
    return judge_family(verdicts), tables


def context(**changes):
    settings = {
        "run_id": "run-1",
        "profile": "laptop",
        "command": "python fleet.py launch --run-id run-1",
        "commit": "0123456789abcdef",
        "dirty": False,
        "wall_time_s": 75.0,
        "hardware": {"CPU": "two cores"},
        "versions": {"numpy": np.__version__},
        "missions": {"A": MissionInfo(title="First", claim=EVIL, spec_digest="ab" * 32)},
    }
    return ReportContext(**{**settings, **changes})


class Page(HTMLParser):
    """Collects ids, sources and visible text; checks that tags are closed."""

    VOID = frozenset({"meta", "br", "img", "col", "path", "use", "rect", "link", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_self_contained_and_escaped(tmp_path, run):
    verdicts, tables = run
    extras = {
        "A": [
            Extra(title="Curve", lines={"a": ((1, 2, 4), (0.1, 0.2, 0.3))}, log2_x=True),
            Extra(title="Rows", columns=("arm", "x"), rows=[(EVIL, 0.5)], text=EVIL),
        ]
    }
    page = write_report(tmp_path, verdicts, tables, context(extras=extras, notes=(EVIL,)))
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.open == []
    assert "<script" not in text
    assert EVIL in "".join(parsed.text)
    outside = [s for s in parsed.sources if re.match(r"^(https?:)?//", s)]
    assert outside == []
    assert not re.search(r"url\((?!#)|@import", text)
    for name in ("verdicts.json", "verdicts.md", "verdicts.tex", "forest.svg"):
        assert (tmp_path / name).exists()
    read = ScoreTable.from_parquet(tmp_path / "scores" / "A.parquet")
    assert read.digest() == tables["A"].digest()


def test_every_verdict_is_said_in_words(tmp_path, run):
    verdicts, tables = run
    assert [v.verdict for v in verdicts] == [
        "PROMOTE", "INCONCLUSIVE", "REJECT", "INVALID", "WITHHELD",
    ]  # fmt: skip
    text = write_report(tmp_path, verdicts, tables, context()).read_text(encoding="utf-8")
    for word in ("Promoted", "Inconclusive", "Not supported", "Invalid", "Verdict withheld"):
        assert text.count(word) >= 3
    assert "leak: check" in text
    assert "smoke profile" in text
    assert "Would decide:" in text
    assert "python fleet.py launch --run-id run-1" in text
    assert "1 min 15 s" in text


def test_the_same_input_gives_the_same_bytes(tmp_path, run):
    verdicts, tables = run
    pages = [
        write_report(tmp_path / name, verdicts, tables, context()).read_bytes() for name in "ab"
    ]
    assert pages[0] == pages[1]


def test_dirty_tree_and_failures_are_shown(tmp_path, run):
    verdicts, tables = run
    failures = (Failure(mission="A", arm="old", seed=2, error="died", resolved=False),)
    page = write_report(tmp_path, verdicts, tables, context(dirty=True, failures=failures))
    text = page.read_text(encoding="utf-8")
    assert "dirty tree" in text
    assert "not resolved" in text
    lines = {line.key: line for line in checklist(verdicts, context(failures=failures))}
    assert lines["runs"].status == "no"
    assert lines["fixed"].status == "open"
    assert lines["noise"].status == "open"
    answered = checklist(verdicts, context(checklist={"noise": "two runs agree to the bit"}))
    assert [line.status for line in answered if line.key == "noise"] == ["yes"]
    assert len(checklist_keys()) == len(set(checklist_keys())) == len(lines)


def test_a_mission_without_any_estimate_still_has_a_page(tmp_path, make_table):
    table = make_table({"new_method": np.zeros((1, 3)), "old": np.zeros((1, 3))})
    verdicts = judge_family([mission("A", table)])
    text = write_report(tmp_path, verdicts, {"A": table}, context()).read_text(encoding="utf-8")
    assert "No comparison has an estimate" in text
    assert forest_figure(verdicts) is None


def test_forest_svg_is_well_formed_and_themed(tmp_path, run):
    verdicts, tables = run
    page = write_report(tmp_path, verdicts, tables, context()).read_text(encoding="utf-8")
    inline = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(inline) >= 4
    for svg in inline:
        ElementTree.fromstring(svg.replace("xlink:href", "href"))
        assert "var(--ink)" in svg or "var(--muted)" in svg
        assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]", svg)
    alone = (tmp_path / "forest.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(alone)
    assert "var(" not in alone
    assert [gate.gate for gate in forest_rows(verdicts[0])] == ["main"]


def test_variance_shares_add_to_one(run):
    verdicts, _ = run
    found = shares("A", verdicts[0].primary)
    assert found.seed + found.example + found.residual == pytest.approx(1.0)


def test_tables(run, tmp_path):
    verdicts, tables = run
    markdown = markdown_table(verdicts)
    assert markdown.count("\n| ") == 5
    assert "**D: INVALID.** leak" in markdown
    latex = latex_table(verdicts)
    assert latex.count(r"\\") == 6
    assert r"new\_method vs old" in latex
    assert all(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    write_report(tmp_path, verdicts, tables, context())
    data = json.loads((tmp_path / "verdicts.json").read_text(encoding="utf-8"))
    assert [v["verdict"] for v in data["verdicts"]] == [v.verdict for v in verdicts]


def test_figures_in_words():
    assert tex("50% & a_b <x>") == r"50\% \& a\_b $<$x$>$"
    assert (figure(0.01234, "fraction", signed=True), figure(None)) == ("+1.23", "–")  # noqa: RUF001
    assert (p_text(1e-9), p_text(0.0321), p_text(1.0)) == ("< .0001", ".0321", "1.0000")
    assert (duration(3725), duration(59)) == ("1 h 2 min 5 s", "59 s")


def test_a_curve_must_have_as_many_xs_as_ys():
    with pytest.raises(StatsError, match="line 'a': 2 xs, 1 ys"):
        curves_figure(Extra(title="Curve", lines={"a": ((1, 2), (0.1,))}))

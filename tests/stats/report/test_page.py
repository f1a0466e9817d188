from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np

from stats.report import Extra, Failure, write_report
from stats.report.checklist import checklist
from stats.report.forest import forest_figure, standing
from stats.report.html import MAX_BYTES, render
from stats.report.wording import duration
from stats.scores import ScoreTable
from stats.sequential.stop import EarlyStop
from stats.verdict import judge_family

EVIL_ARM = (
    '$\\frac{a}{$ & 50% | \\\\ "q" <img src=x> \N{RIGHT-TO-LEFT OVERRIDE}\x00 [x] '
    "\N{CJK UNIFIED IDEOGRAPH-4E2D}"
)


class Page(HTMLParser):
    """Collects ids, sources and visible text; checks that tags are closed."""

    VOID = frozenset({"meta", "br", "img", "col", "path", "use", "rect", "link", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.text = [], [], []
        self.feed(text)

    @property
    def words(self):
        return "".join(self.text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_self_contained_and_escaped(run, written, evil):
    text = (written / "index.html").read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.open == []
    assert "<script" not in text
    assert evil in parsed.words
    assert [s for s in parsed.sources if re.match(r"^(https?:)?//", s)] == []
    assert not re.search(r"url\((?!#)|@import", text)
    assert (written / "index.html").stat().st_size < MAX_BYTES
    files = [s for s in parsed.sources if not s.startswith("#")]
    assert {"verdicts.json", "verdicts.tex", "figures/forest.pdf", "scores/A.parquet"} <= set(files)
    assert [name for name in files if not (written / name).exists()] == []
    read = ScoreTable.from_parquet(written / "scores" / "A.parquet")
    assert read.digest() == run.tables["A"].digest()


def test_every_verdict_is_said_in_words(run, written):
    assert [v.verdict for v in run.verdicts] == [
        "PROMOTE", "INCONCLUSIVE", "REJECT", "INVALID", "WITHHELD",
    ]  # fmt: skip
    words = Page((written / "index.html").read_text(encoding="utf-8")).words
    for word in ("Promoted", "Inconclusive", "Not supported", "Invalid", "Verdict withheld"):
        assert words.count(word) >= 3
    for text in (
        "leak: check",
        "smoke profile",
        "Would decide:",
        "python fleet.py launch --run-id run-1",
        "1 min 15 s",
    ):
        assert text in words


def test_the_same_input_gives_the_same_bytes(tmp_path, run, written, make_context):
    write_report(tmp_path, run.verdicts, run.tables, make_context())
    files = [path.relative_to(written) for path in written.rglob("*") if path.is_file()]
    assert len(files) > 12
    changed = [str(f) for f in files if (tmp_path / f).read_bytes() != (written / f).read_bytes()]
    assert changed == []


def test_dirty_tree_and_failures_are_shown(run, make_context):
    failures = (Failure(mission="A", arm="old", seed=2, error="died", resolved=False),)
    told = make_context(dirty=True, failures=failures)
    words = Page(render(run.verdicts[:1], {}, told)).words
    assert "dirty tree" in words
    assert "not resolved" in words
    lines = {line.key: line for line in checklist(run.verdicts, told)}
    assert (lines["runs"].status, lines["reproduce"].status) == ("no", "no")


def test_a_mission_without_any_estimate_still_has_a_page(make_table, judged, make_context):
    table = make_table({"new_method": np.zeros((1, 3)), "old": np.zeros((1, 3))})
    verdicts = judge_family([judged("A", table)])
    words = Page(render(verdicts, {"A": table}, make_context())).words
    assert "No comparison has an estimate" in words
    assert "Not measured" in words
    assert forest_figure(verdicts) is None


def test_hostile_names_stay_text_on_the_page(tmp_path, make_table, make_pair, judged, make_context):
    new, old = make_pair(np.random.default_rng(1), num_examples=40, effect=0.2)
    tables = {"A": make_table({EVIL_ARM: new, "old": old})}
    verdicts = judge_family([judged("A", tables["A"], new=EVIL_ARM)])
    extra = Extra(title=EVIL_ARM, lines={EVIL_ARM: ((1, 2), (0.1, 0.2))}, x_label=EVIL_ARM)
    text = render(verdicts, tables, make_context(extras={"A": [extra]}))
    assert Page(text).open == []
    assert not re.search(r"<img src=x|[\x00\u202e]", text)
    assert "$\\frac{a}{$" in Page(text).words
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ElementTree.fromstring(svg.replace("xlink:href", "href"))


def test_a_stopped_mission_is_interim(make_table, make_pair, judged, make_context):
    new, old = make_pair(np.random.default_rng(2), num_examples=60, num_seeds=3, effect=0.3)
    table = make_table({"new_method": new, "old": old})
    stop = EarlyStop(
        kind="futility", seeds=(0, 1, 2), planned=5, gate="main",
        conditional_power=0.01, conditional_power_min=0.1,
    )  # fmt: skip
    verdicts = judge_family([judged("A", table, stopped=stop)])
    assert (verdicts[0].verdict, standing(verdicts[0])) == ("INCONCLUSIVE", "STOPPED")
    words = Page(render(verdicts, {"A": table}, make_context())).words
    assert "Stopped for futility" in words
    assert "stopped for futility after 3 of 5 seeds" in words
    assert "stopped for futility, interim figures" in words
    assert "Promoted" not in words


def test_extras_are_drawn_and_their_text_escaped(run, make_context, evil):
    extras = {
        "A": [
            Extra(title="Curve", lines={"a": ((512, 8192), (0.1, 0.3))}, log2_x=True),
            Extra(title="Rows", columns=("arm", "x"), rows=[(evil, 0.5)], text=evil),
        ]
    }
    words = Page(render(run.verdicts[:1], {}, make_context(extras=extras, notes=(evil,)))).words
    assert words.count(evil) >= 4
    assert "8k" in words


def test_columns_of_words_are_not_set_as_figures(run, make_context):
    rows = [("a", "planner", "-0.5", 3), ("b", "frozen", "", 4)]
    extra = Extra(title="Rows", columns=("item", "arm", "gap", "count"), rows=rows)
    text = render(run.verdicts[:1], {}, make_context(extras={"A": [extra]}))
    for name, kind in (("item", ""), ("arm", ""), ("gap", ' class="n"'), ("count", ' class="n"')):
        assert f'<th scope="col"{kind}>{name}</th>' in text


def test_durations_in_words():
    assert (duration(3725), duration(59)) == ("1 h 2 min 5 s", "59 s")

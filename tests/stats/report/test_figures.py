from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.stats import friedmanchisquare

from stats.errors import StatsError
from stats.power import detectable, expected_error
from stats.report import Extra
from stats.report.components import shares
from stats.report.critical import rank_blocks, rankings
from stats.report.curves import curves_figure
from stats.report.forest import forest_rows
from stats.report.power_curves import SEEDS, asked_distance, detectable_table, power_curve
from stats.report.profiles import profile, profiles
from stats.report.scenarios import scenarios_of, slice_metrics
from stats.report.theme import shorten
from stats.scores import ScoreTable


def test_inline_figures_are_well_formed_named_and_themed(written):
    page = (written / "index.html").read_text(encoding="utf-8")
    inline = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(inline) == 8
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    known = set(ids)
    assert set(re.findall(r'xlink:href="#([^"]*)"|url\(#([^)]*)\)', page)) != set()
    assert {a or b for a, b in re.findall(r'xlink:href="#([^"]*)"|url\(#([^)]*)\)', page)} <= known
    for svg in inline:
        ElementTree.fromstring(svg.replace("xlink:href", "href"))
        assert re.match(r'<svg role="img" aria-labelledby="[^"]+" aria-describedby="[^"]+"', svg)
        assert re.search(r"<title id=[^>]*>[^<]+</title><desc id=[^>]*>[^<]+</desc>", svg)
        assert "var(--ink)" in svg or "var(--muted)" in svg
        assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]", svg)


def test_files_for_papers_carry_the_light_scheme(written):
    for svg in (written / "figures").glob("*.svg"):
        text = svg.read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert "var(" not in text
        assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]", text)
    assert (written / "figures" / "forest.pdf").read_bytes().startswith(b"%PDF-")
    image = (imread(written / "figures" / "forest.png")[::2, ::2, :3] * 255).round().astype(int)
    solid = {divmod(code, 256) for code in np.unique(image @ [65536, 256, 1]).tolist()}
    solid = {(*divmod(high, 256), low) for high, low in solid}
    assert (10, 127, 94) in solid  # the light scheme's colour of a pass
    assert not any(r == g == b and 0 < r < 16 for r, g, b in solid)  # stand-in colours


def test_the_forest_shows_comparisons_alone(run):
    assert [gate.gate for gate in forest_rows(run.verdicts[0])] == ["main"]


def test_variance_shares_add_to_one(run):
    found = shares("A", run.verdicts[0].primary)
    assert sum(found.parts) == pytest.approx(1.0)


def test_power_is_asked_for_the_gates_own_size(run):
    gate = run.verdicts[1].primary
    assert asked_distance(gate) == pytest.approx(0.015)
    curve = power_curve("B", gate)
    assert curve.same_units[SEEDS.index(5)] == curve.now < 0.8
    # The table's figure is the effect that the same grid finds with 80 % power.
    row = next(row for row in detectable_table([run.verdicts[1]]) if row.gate.primary)
    assert row.now == pytest.approx(detectable(*expected_error(gate.components, 5, 80)))
    error, df = expected_error(gate.components, 10, gate.num_units)
    assert row.twice_seeds == pytest.approx(detectable(error, df))
    assert row.both < row.more_units < row.now
    # Without a size of its own a gate is asked for what the present design finds.
    plain = power_curve("B", replace(gate, margins=(0.0,)))
    assert not plain.from_margins
    assert plain.now == pytest.approx(0.8)


def test_a_profile_is_the_share_that_reaches_tau():
    means_KS = np.array([[0.2, 0.4], [0.4, 0.9]])
    taus_T = np.array([0.0, 0.2, 0.3, 0.4, 0.41, 0.9, 1.0])
    naive = [float(np.mean([[x >= tau for x in row] for row in means_KS])) for tau in taus_T]
    assert profile(means_KS, taus_T).tolist() == pytest.approx(naive)


def test_slices_of_a_metric():
    metrics = ["em", "em_F", "em_RF", "f1", "acc@8k", "acc_a@8k", "acc_a@1k", "acc_a", "accx@8k"]
    assert slice_metrics("em", metrics) == ["em_F", "em_RF"]
    assert slice_metrics("acc@8k", metrics) == ["acc_a@8k", "acc_a@1k"]
    assert slice_metrics("f1", metrics) == ["f1"]


@pytest.fixture(scope="module")
def sliced(run, make_table, make_pair):
    """Mission A with twelve slices of three arms."""
    rng = np.random.default_rng(5)
    tables = [run.tables["A"]]
    for at in range(12):
        new, old = make_pair(rng, num_examples=30, effect=0.3)
        grids = {"new_method": new, "old": old, "third": old * 0.5}
        tables.append(make_table(grids, metric=f"em_{at:02d}"))
    return {"A": ScoreTable.concat(tables)}


def test_profiles_of_missions_with_slices_alone(run, sliced):
    both = {**sliced, "B": run.tables["B"]}
    found = profiles(run.verdicts[:2], both, resamples=200)
    assert [panel.title for panel in found.panels] == ["A", "All missions"]
    assert list(found.left_out) == ["B"]
    line = found.panels[0].lines[0]
    scenarios = scenarios_of(run.verdicts[0], sliced["A"])
    assert line.share_T == pytest.approx(profile(scenarios.arms["new_method"], found.thresholds_T))
    assert (line.low_T <= line.share_T + 1e-12).all()
    assert (line.share_T <= line.high_T + 1e-12).all()
    assert (line.high_T - line.low_T).max() > 0
    # Missions weigh alike although one has twelve scenarios and the other one.
    other = scenarios_of(run.verdicts[1], run.tables["B"])
    expected = np.mean(
        [profile(one.arms["new_method"], found.thresholds_T) for one in (scenarios, other)],
        axis=0,
    )
    assert found.panels[1].lines[0].share_T == pytest.approx(expected)


def test_critical_differences_need_ten_scenarios(run, sliced):
    ranked, not_ranked = rankings(run.verdicts[:2], {**sliced, "B": run.tables["B"]})
    assert [one.mission for one in ranked] == ["A"]
    assert not_ranked == {"B": "1 scenario, 3 arms"}
    assert list(ranked[0].ranks) == ["new_method", "old", "third"]


def test_ranks_agree_with_demsars_example():
    # Demsar 2006, section 3.2.2: k = 4, N = 14, q = 2.569 gives CD = 1.25.
    scores_Nk = np.random.default_rng(3).random((14, 4))
    ranked = rank_blocks("A", ("a", "b", "c", "d"), scores_Nk)
    assert ranked.distance == pytest.approx(1.25, abs=0.005)
    assert ranked.friedman_p == pytest.approx(friedmanchisquare(*scores_Nk.T).pvalue)
    naive = {
        arm: np.mean([1 + sum(x > row[at] for x in row) for row in scores_Nk])
        for at, arm in enumerate("abcd")
    }
    assert ranked.ranks == pytest.approx(naive)
    for group in ranked.alike:
        assert ranked.ranks[group[-1]] - ranked.ranks[group[0]] < ranked.distance


def test_arms_that_never_differ_are_not_told_apart():
    ranked = rank_blocks("A", ("a", "b", "c"), np.ones((10, 3)))
    assert (ranked.friedman_p, ranked.alike) == (1.0, (("a", "b", "c"),))


def test_long_names_keep_both_ends():
    assert shorten("a" * 30 + "z" * 30, 21) == "a" * 13 + "…" + "z" * 7
    assert shorten("short", 21) == "short"


def test_a_curve_must_have_as_many_xs_as_ys():
    with pytest.raises(StatsError, match="line 'a': 2 xs, 1 ys"):
        curves_figure(Extra(title="Curve", lines={"a": ((1, 2), (0.1,))}))

"""The checklist's questions, and what verdicts and scores alone can answer of them.

Every rule looks at this run's figures. Where a property holds by construction (a missing cell
makes a gate INVALID) the rule still counts the gates of this run to which it applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stats.family import counted as members
from stats.integrity import manifests
from stats.report.context import Fact, ReportContext, Status
from stats.report.tables import counted
from stats.result import GateResult
from stats.scores import ScoreTable
from stats.verdict import MissionVerdict

RATIO_KINDS = ("contrast",)
TABLES = "verdicts.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What a rule may look at."""

    verdicts: Sequence[MissionVerdict]
    context: ReportContext
    scores: Mapping[str, ScoreTable]

    @property
    def gates(self) -> list[tuple[str, GateResult]]:
        """(mission, gate) of every gate."""
        return [(v.mission, gate) for v in self.verdicts for gate in v.gates]

    @property
    def estimated(self) -> list[tuple[str, GateResult]]:
        """Gates with an estimate from scores, not from sizes."""
        return [(m, g) for m, g in self.gates if g.estimate is not None and g.seeds]


def _estimand(run: Material) -> Fact:
    named = [gate for _, gate in run.gates if gate.estimand]
    total = len(run.gates)
    lost = [f"{m} {gate.gate}" for m, gate in run.gates if not gate.estimand]
    text = f"in words at {len(named)} of {total} gates"
    if lost:
        text += f"; {_few(lost)} could not be computed and name none"
    whole = all(verdict.estimand for verdict in run.verdicts)
    text += "; every mission file names its own" if whole else ""
    return Fact(
        answer=text,
        where=f"{TABLES}: gates[].estimand",
        status="yes" if whole and not lost else "part",
    )


def _fixed(run: Material) -> Fact:
    infos = run.context.missions
    hashed = [
        v.mission for v in run.verdicts if v.mission in infos and infos[v.mission].spec_digest
    ]
    return Fact(
        answer=f"a hash of the mission file was handed in for {len(hashed)} of "
        f"{len(run.verdicts)} missions; not stated whether it was taken before any data existed",
        status="open",
    )


def _paired(run: Material) -> Fact:
    pairs = [(m, gate) for m, gate in run.gates if gate.versus and gate.kind != "exact"]
    held = [(m, gate) for m, gate in pairs if gate.estimate is not None]
    if not held:
        return Fact(answer="no comparison of two arms was computed", status="open")
    prints: list[str] = []
    equal = True
    for verdict in run.verdicts:
        gate = verdict.primary
        table = run.scores.get(verdict.mission)
        if table is None or not gate.versus or gate.estimate is None:
            continue
        arms = (gate.treatment, gate.versus)
        found = manifests(table, gate.metric)
        prints_of = {digest for (arm, _), digest in found.items() if arm in arms}
        equal = equal and len(prints_of) == 1
        prints.append(f"{verdict.mission} {' and '.join(sorted(d[:12] for d in prints_of))}")
    text = (
        f"{len(held)} of {len(pairs)} comparisons were computed, cell by cell over the same seeds "
        "and test items; a missing cell refuses the gate"
    )
    if prints:
        same = "equal in all arms and seeds" if equal else "different between arms or seeds"
        text += f". Manifests of the primary gates' items, {same}: {', '.join(prints)}"
    whole = len(held) == len(pairs)
    status: Status = "no" if not equal else "yes" if whole else "part"
    return Fact(answer=text, where="scores/*.parquet", status=status)


def _seeds(run: Material) -> Fact:
    counts = ", ".join(f"{v.mission} {len(v.seeds)}" for v in run.verdicts)
    given = [gate for _, gate in run.estimated if gate.components is not None]
    text = (
        f"seeds: {counts}; seeds and test items are both random in the two-way analysis; variance "
        f"components stand at {len(given)} of {len(run.estimated)} gates with an estimate"
    )
    single = [v.mission for v in run.verdicts if len(v.seeds) < 2]
    if single:
        text += f"; {_few(single)} ran one seed, which says nothing about new seeds"
    done = bool(given) and not single
    return Fact(
        answer=text,
        where=f"{TABLES}: gates[].components; figures/variance.svg" if given else "",
        status="yes" if done else "part" if given else "open",
    )


def _clusters(run: Material) -> Fact:
    said: list[str] = []
    for verdict in run.verdicts:
        gate = verdict.primary
        if not gate.num_examples:
            said.append(f"{verdict.mission} not computed")
        elif gate.num_units < gate.num_examples:
            said.append(f"{verdict.mission} {gate.num_examples:,} items in {gate.num_units:,}")
        else:
            said.append(f"{verdict.mission} {gate.num_examples:,} items, each alone")
    return Fact(
        answer=f"clusters of the primary gates: {'; '.join(said)}",
        where="scores/*.parquet: cluster_id",
        status="yes" if all(v.primary.num_examples for v in run.verdicts) else "part",
    )


def _tuning(run: Material) -> Fact:
    told = {name: info.tuning for name, info in run.context.missions.items() if info.tuning}
    if not told:
        return Fact(answer="not stated by this run", status="open")
    texts = set(told.values())
    if len(texts) == 1:
        return Fact(answer=texts.pop())
    return Fact(answer="; ".join(f"{name}: {text}" for name, text in told.items()))


def _reads(run: Material) -> Fact:
    reads = {n: i.test_reads for n, i in run.context.missions.items() if i.test_reads is not None}
    if not reads:
        return Fact(answer="reads of the test split were not counted", status="open")
    return Fact(
        answer="reads of the test split: " + ", ".join(f"{n} {count}" for n, count in reads.items())
    )


def _all_runs(run: Material) -> Fact:
    failures = run.context.failures
    lost = [failure for failure in failures if not failure.resolved]
    cells = [
        f"{name} {len(table.arms)} arms x {len(table.seeds)} seeds"
        for name, table in run.scores.items()
    ]
    text = f"scores of {', '.join(cells) or 'no mission'}; " + (
        f"{counted(len(failures), 'failure')} recorded, {len(lost)} without a later success"
        if failures
        else "no failure recorded"
    )
    return Fact(answer=text, where="scores/*.parquet", status="no" if lost else "yes")


def _method(run: Material) -> Fact:
    resamples = sorted({v.resamples for v in run.verdicts})
    seeds = ", ".join(f"{v.mission} {v.rng_seed}" for v in run.verdicts)
    errors = [
        max(gate.bootstrap.low_error, gate.bootstrap.high_error)
        / (gate.bootstrap.high - gate.bootstrap.low)
        for _, gate in run.gates
        if gate.bootstrap is not None and gate.bootstrap.high > gate.bootstrap.low
    ]
    text = (
        "two-way Satterthwaite t decides (one arm's rate: score interval); beside it crossed BCa, "
        "B = "
        f"{', '.join(f'{b:,}' for b in resamples)}, width calibrated to it; RNG seeds {seeds}"
    )
    if errors:
        text += f"; largest Monte-Carlo error of a limit {max(errors):.1%} of its interval's width"
    return Fact(answer=text, where=f"{TABLES}: rng_seed, resamples, gates[].bootstrap.low_error")


def _ties(run: Material) -> Fact:
    exact = [
        f"{m} {gate.gate}"
        for m, gate in run.gates
        if gate.interval is not None and gate.interval.method.startswith("exact")
    ]
    refused = [
        f"{m} {gate.gate}"
        for m, gate in run.gates
        if gate.decision == "INVALID" and "zero variation" in gate.reason
    ]
    return Fact(
        answer=(
            "bias correction of the bootstrap by mid-rank; nothing varied at "
            f"{counted(len(exact), 'gate')} with an exact bound ({_few(exact)}) and "
            f"{counted(len(refused), 'gate')} that were refused ({_few(refused)}); a zero-width "
            "interval never passes"
        ),
        where=f"{TABLES}: gates[].interval.method, gates[].reason",
    )


def _effect_first(run: Material) -> Fact:
    return Fact(
        answer="estimate and interval stand before p in every table",
        where="verdicts.md, verdicts.tex",
    )


def _family(run: Material) -> Fact:
    family = next((v.family for v in run.verdicts if v.family is not None), None)
    if family is None:
        return Fact(
            answer="no family: every verdict is withheld, so nothing is claimed", status="open"
        )
    return Fact(
        answer=(
            f"{members(family.family)} ({', '.join(family.family)}), one p each, "
            f"Benjamini-Hochberg at q = {family.q:g}; Benjamini-Yekutieli and FCR intervals "
            "beside it"
        ),
        where=f"{TABLES}: family",
    )


def _margins(run: Material) -> Fact:
    gates = [(m, gate) for m, gate in run.gates if gate.required]
    bare = [f"{m} {gate.gate}" for m, gate in gates if not gate.note]
    text = f"a reason stands with {len(gates) - len(bare)} of {len(gates)} required gates"
    if bare:
        text += f"; none with {_few(bare)}"
    return Fact(
        answer=text,
        where=f"{TABLES}: gates[].note",
        status="part" if bare else "yes",
    )


def _power(run: Material) -> Fact:
    known = [(m, gate) for m, gate in run.estimated if gate.mde is not None]
    if not known:
        return Fact(
            answer="no gate has an interval from which a detectable effect follows",
            status="open",
        )
    primary = [f"{v.mission} {_size(v.primary)}" for v in run.verdicts if v.primary.mde is not None]
    text = f"detectable effect at 80 % for {len(known)} gates"
    if primary:
        text += f"; primary gates: {', '.join(primary)}"
    lost = [v.mission for v in run.verdicts if v.primary.mde is None]
    if lost:
        text += f"; none for the primary gates of {_few(lost)}"
    return Fact(
        answer=text,
        where=f"{TABLES}: gates[].mde; figures/power.svg",
        status="part" if lost else "yes",
    )


def _peeking(run: Material) -> Fact:
    said: list[str] = []
    for verdict in run.verdicts:
        if verdict.stopped is not None:
            said.append(f"{verdict.mission} {verdict.stopped.text}")
        if verdict.look is not None:
            looks = ", ".join(map(str, verdict.look.at_seeds))
            said.append(
                f"{verdict.mission} has planned looks at {looks} seeds, decided at one-sided "
                f"{verdict.look.nominal:.2g}"
            )
    text = "; ".join([*said, "not stated by this run how often the scores were looked at before"])
    return Fact(answer=text, where=f"{TABLES}: stopped, look" if said else "", status="open")


def _parity(run: Material) -> Fact:
    rows = [row for v in run.verdicts for row in v.parity if row.checked]
    broken = [row for row in rows if not row.ok]
    if not rows:
        return Fact(answer="no parity rule was set", status="open")
    worst = max((abs(r.relative_difference or 0.0) for r in rows), default=0.0)
    limits = ", ".join(sorted({f"{row.tolerance:.0%}" for row in rows}))
    quantities = ", ".join(sorted({row.quantity.replace("_", " ") for row in rows}))
    return Fact(
        answer=(
            f"{len(rows)} checks on {quantities} within {limits}; {len(broken)} broken, largest "
            f"difference {worst:.2%}"
        ),
        where=f"{TABLES}: parity",
        status="no" if broken else "yes",
    )


def _effect_size(run: Material) -> Fact:
    given = [gate for _, gate in run.gates if gate.effects]
    if not given:
        return Fact(answer="no comparison of two arms has an interval", status="open")
    return Fact(
        answer=(
            f"at {len(given)} gates: d_z over seeds and over items, d_av, pooled d; "
            "Hedges-corrected, with intervals"
        ),
        where=f"{TABLES}: gates[].effects",
    )


def _denominators(run: Material) -> Fact:
    ratios = [
        (m, gate)
        for m, gate in run.gates
        if gate.kind in RATIO_KINDS or gate.details.get("margin_scale") == "relative"
    ]
    if not ratios:
        return Fact(
            answer="no gate of this run divides by a measured figure",
            where=f"{TABLES}: gates[].kind",
        )
    empty = [f"{m} {g.gate}" for m, g in ratios if g.control_mean is None or g.control_mean == 0]
    names = [f"{m} {gate.gate}" for m, gate in ratios]
    text = f"{len(ratios)} gates on ratios ({_few(names)}), all tested as linear contrasts"
    text += f"; without a usable control: {_few(empty)}" if empty else "; every control has events"
    return Fact(answer=text, where=f"{TABLES}: gates[].estimand")


def _calibration(run: Material) -> Fact:
    if run.context.calibration is not None:
        return run.context.calibration
    return Fact(answer="no campaign of identical arms was measured beside this run", status="open")


def _published(run: Material) -> Fact:
    same = [
        v.mission
        for v in run.verdicts
        if v.mission in run.scores and run.scores[v.mission].digest() == v.scores_digest
    ]
    text = f"{len(same)} of {len(run.verdicts)} missions: Parquet, content equal to what was judged"
    lost = [v.mission for v in run.verdicts if v.mission not in same]
    if lost:
        text += f"; not {_few(lost)}"
    return Fact(
        answer=text,
        where="scores/*.parquet, sha256 below",
        status="part" if lost else "yes",
    )


def _reproduce(run: Material) -> Fact:
    context = run.context
    status: Status = "open"
    text = f"{context.command}; not checked whether a second run gives the same bits"
    if context.dirty:
        status = "no"
        text = f"{context.command}, but the working tree held changes that no commit has"
    return Fact(answer=text, where=f"commit {context.commit[:12]}", status=status)


def _noise(run: Material) -> Fact:
    return Fact(answer="not measured, no seed was run twice", status="open")


def _size(gate: GateResult) -> str:
    assert gate.mde is not None
    return f"{gate.mde * 100:.2f} pp" if gate.scale == "fraction" else f"{gate.mde:.3g}"


def _few(names: Sequence[str], limit: int = 4) -> str:
    if not names:
        return "none"
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


RULES: tuple[tuple[str, str, Callable[[Material], Fact]], ...] = (
    ("estimand", "Is the estimand named?", _estimand),
    ("fixed", "Gates, margins, S, N, primary metric and family hashed before data?", _fixed),
    ("paired", "Paired by seed and example, with equal manifests?", _paired),
    ("seeds", "Seeds treated as random, variance components given?", _seeds),
    ("clusters", "Clusters declared?", _clusters),
    ("tuning", "Control retrained and tuned like the treatment?", _tuning),
    ("reads", "Dev and test apart, reads of test counted?", _reads),
    ("runs", "All runs reported?", _all_runs),
    ("method", "Method, resamples, RNG seed, Monte-Carlo error?", _method),
    ("ties", "Ties and degenerate cases: which rule?", _ties),
    ("effect_first", "Effect before p?", _effect_first),
    ("family", "Size of the family?", _family),
    ("margins", "Margins justified?", _margins),
    ("power", "Power?", _power),
    ("peeking", "No peeking?", _peeking),
    ("parity", "Parity defined?", _parity),
    ("effect_size", "Effect size named?", _effect_size),
    ("denominators", "Denominators guarded?", _denominators),
    ("calibration", "A/A calibration?", _calibration),
    ("published", "Per-example scores published?", _published),
    ("reproduce", "One command reproduces the tables bit for bit?", _reproduce),
    ("noise", "Noise floor (same seed twice)?", _noise),
)

"""What the ledger proves of the reviewer's checklist: one fact a line, with its link or file.

Only lines that the ledger can answer; the statistics answer the others from scores and verdicts.
Knows ledgers, and the record of a fact; no scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleet.judging.noise_floor import NoiseFloor, noise_floor
from fleet.judging.verdicts import newest_verdicts
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import Decision
from fleet.settings import RunPaths
from fleet.states import RunState
from stats.report import Fact

LEDGER = "ledger.sqlite"


def ledger_facts(reader: LedgerReader, meta: Mapping[str, Any], paths: RunPaths) -> dict[str, Fact]:
    """Answers by line of the checklist."""
    links = reader.decisions()
    again = noise_floor(paths)
    return {
        "fixed": _fixed(reader, links),
        "tuning": _tuning(reader, links),
        "runs": _runs(reader, links),
        "peeking": _peeking(reader, links),
        "reproduce": _reproduce(meta, again),
        "noise": _noise(again),
    }


def _fixed(reader: LedgerReader, links: Sequence[Decision]) -> Fact:
    # Where a sweep chooses settings, the file is recorded before it and the arms are frozen after.
    freezes = _of_kind(links, "freeze") | _of_kind(links, "mission_file")
    early: list[str] = []
    late: list[str] = []
    for row in sorted(reader.missions(), key=lambda item: item.mission):
        link = freezes.get(row.mission)
        before = link is not None and (row.started_at is None or link.at <= row.started_at)
        (early if before else late).append(row.mission)
    first = min((link.seq for link in links if link.kind == "verdict"), default=0)
    family = all(link.seq < first for link in freezes.values())
    text = (
        f"mission files (gates with margins, seeds, test items, primary metric) of "
        f"{', '.join(early) or 'no mission'} frozen by hash before their data were made"
    )
    if late:
        text += f"; not of {', '.join(late)}"
    if family:
        text += (
            f"; the family is the {len(freezes)} missions frozen, none was added after a verdict"
        )
    changed = [link for link in links if link.kind == "change" and link.body["mission"]]
    if changed:
        said = "; ".join(
            f"{link.body['mission']} ({', '.join(link.body['differences'])})" for link in changed
        )
        text += f"; changed while the run existed, by --allow-changes: {said}"
    return Fact(
        answer=text,
        where=_where([*freezes.values(), *changed]),
        status="no" if late or changed else "yes",
    )


def _tuning(reader: LedgerReader, links: Sequence[Decision]) -> Fact:
    freezes = _of_kind(links, "freeze")
    reads = _of_kind(links, "test_read")
    done: dict[str, dict[str, int]] = {}
    for run in reader.runs():
        counts = done.setdefault(run.mission, {})
        counts[run.arm] = counts.get(run.arm, 0) + (run.state is RunState.DONE)
    alike = all(len(set(counts.values())) == 1 for counts in done.values())
    trained = (
        "every arm ran under the same number of seeds"
        if alike
        else "the arms ran under different numbers of seeds"
    )
    lock = " (test scores open for no other settings)" if reads else ""
    order = "; ".join(
        f"{name}: decision {link.seq} froze them by hash, "
        + (
            f"decision {reads[name].seq} is the first read of test scores"
            if name in reads
            else "no read of test scores is recorded"
        )
        for name, link in sorted(freezes.items())
    )
    sweeps = _of_kind(links, "sweep")
    rest = sorted({row.mission for row in reader.missions()} - set(sweeps))
    tuned = [_tuned(link) for _, link in sorted(sweeps.items())]
    if rest:
        tuned.append(
            f"{', '.join(rest)}: not in this launch, all settings are those of the mission files; "
            "how they were found before is told in each mission's README and proven by nothing here"
        )
    return Fact(
        answer=f"retrained: {trained}. Tuned{lock}: {'. '.join(tuned)}",
        where=f"{LEDGER}: {order}",
        status="no" if not alike else "part" if rest else "yes",
    )


def _tuned(link: Decision) -> str:
    """One mission's sweep: the budget of every arm, and what was left untuned why."""
    choices = link.body["choices"]
    budgets = {(c["trials"], c["evaluations"]) for c in choices.values()}
    arms = ", ".join(sorted(choices))
    if len(budgets) == 1:
        settings, trials = budgets.pop()
        text = f"{arms} with the same budget of {settings} settings in {trials} trials each"
    else:
        text = ", ".join(
            f"{arm} {c['trials']} settings in {c['evaluations']} trials"
            for arm, c in sorted(choices.items())
        )
        text = text or "no arm"
    seeds = ", ".join(map(str, link.body["seeds"]))
    text = f"{link.body['mission']}: {text}, on dev, seeds {seeds} (decision {link.seq})"
    for arm, reason in sorted(link.body["untuned"].items()):
        text += f"; {arm} not: {reason}"
    return text


def _runs(reader: LedgerReader, links: Sequence[Decision]) -> Fact:
    runs = reader.runs()
    done = sum(run.state is RunState.DONE for run in runs)
    stopped = {link.body["mission"] for link in links if link.kind == "early_stop"}
    spared = sum(run.state is RunState.CANCELLED and run.mission in stopped for run in runs)
    retried = sum(pack.tries > 1 for pack in reader.packs())
    text = f"{done} of {len(runs)} planned runs are done and scored"
    if spared:
        text += f", {spared} were spared by an early stop of {', '.join(sorted(stopped))}"
    orders = reader.orders()
    gone = sum(
        run.state is RunState.CANCELLED and orders.cancelled(run.mission, run.arm) for run in runs
    )
    if gone:
        text += f", {gone} were cancelled by the user while the launch ran"
    text += f"; {retried} packs needed more than one attempt; failures are listed above"
    lost = len(runs) - done - spared
    return Fact(answer=text, where=f"{LEDGER}: runs, packs", status="no" if lost else "yes")


def _peeking(reader: LedgerReader, links: Sequence[Decision]) -> Fact:
    standing = {str(link.body["mission"]): link for link in newest_verdicts(links)}
    again = _judged_again(links, standing)
    often = {name: count for name, (count, other) in again.items() if other}
    early = {str(link.body["mission"]): link for link in links if link.kind == "early_stop"}
    withheld = [
        str(link.body["mission"])
        for link in links
        if link.kind == "verdict" and link.body["verdict"] == "WITHHELD"
    ]
    if often:
        said = ", ".join(f"{name} {count}" for name, count in sorted(often.items()))
        text = f"verdicts on other scores were recorded before: {said}"
    else:
        text = f"one verdict a mission ({', '.join(sorted(standing))})"
        if again:
            text += (
                f"; recorded again after failed runs were tried again, on the same scores or in "
                f"place of INVALID: {', '.join(sorted(again))}"
            )
        if hasty := _before_the_last_run(reader, links):
            text += f", that of {', '.join(hasty)} before its last run ended"
        else:
            text += ", each after its last run ended"
    if early:
        text += f"; stopped early by a rule of the mission file: {', '.join(sorted(early))}"
    if withheld:
        text += f"; no decision was taken for {', '.join(sorted(set(withheld)))}"
    verdicts = [link for link in links if link.kind in ("verdict", "early_stop")]
    bad = often or _before_the_last_run(reader, links)
    return Fact(answer=text, where=_where(verdicts), status="no" if bad else "yes")


def _judged_again(
    links: Sequence[Decision], standing: Mapping[str, Decision]
) -> dict[str, tuple[int, int]]:
    """Mission -> (verdicts before the one that stands, those of them on other scores)."""
    found: dict[str, tuple[int, int]] = {}
    for link in links:
        name = str(link.body["mission"]) if link.kind == "verdict" else ""
        if not name or link is standing[name]:
            continue
        same = link.body["scores_digest"] == standing[name].body["scores_digest"]
        other = link.body["verdict"] != "INVALID" and not same
        count, others = found.get(name, (0, 0))
        found[name] = (count + 1, others + other)
    return found


def _before_the_last_run(reader: LedgerReader, links: Sequence[Decision]) -> list[str]:
    """Missions whose verdict stands in the chain before the end of one of their runs."""
    decided = {str(link.body["mission"]): link for link in newest_verdicts(links)}
    ends: dict[str, float] = {}
    for run in reader.runs():
        ends[run.mission] = max(ends.get(run.mission, 0.0), run.ended_at or 0.0)
    return sorted(name for name, link in decided.items() if link.at < ends.get(name, 0.0))


def _reproduce(meta: Mapping[str, Any], again: NoiseFloor | None) -> Fact:
    where = f"commit {str(meta['commit'])[:12]}, result.json: verdict_digest"
    text = str(meta["command"])
    if meta.get("dirty"):
        text += "; the working tree held changes that no commit has"
        return Fact(answer=text, where=where, status="no")
    if again is not None and again.same_verdicts:
        text += f"; {again.other} gave the same verdict table to the bit"
        return Fact(answer=text, where=where)
    text += "; no second launch of the same code stands beside this one to compare with"
    return Fact(answer=text, where=where, status="part")


def _noise(again: NoiseFloor | None) -> Fact:
    if again is None:
        return Fact(
            answer="not measured, no run of this launch was executed a second time", status="open"
        )
    return Fact(answer=again.text, where=f"{LEDGER}: results of both launches, equal keys")


def _of_kind(links: Sequence[Decision], kind: str) -> dict[str, Decision]:
    """Mission -> first link of a kind."""
    found: dict[str, Decision] = {}
    for link in links:
        if link.kind == kind:
            found.setdefault(str(link.body["mission"]), link)
    return found


def _where(links: Any) -> str:
    """`ledger.sqlite: decisions 1 (A c358dd99), ...`."""
    named = sorted(links, key=lambda link: link.seq)
    shown = ", ".join(f"{link.seq} ({link.body['mission']} {link.hash[:8]})" for link in named)
    return f"{LEDGER}: decisions {shown}" if named else ""

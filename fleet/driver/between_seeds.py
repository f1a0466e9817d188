"""One mission between its seeds: asks for INTERIM views and ends it early where its file says so.

What to do is decided in `fleet.policies`; here it is carried out and recorded: every view in the
ledger's facts and events, an early end as a link of the chain of decisions before the workers are
told. Knows Ray and the ledger, no statistics beyond their records.
"""

from __future__ import annotations

from typing import Any

from fleet.errors import first_line
from fleet.ledger.reader import LedgerReader
from fleet.policies import Standing, complete_seeds, early_end, next_view
from fleet.states import RunState
from fleet.workers.worker_ledger import LedgerClient
from missions.spec import MissionSpec
from stats.plain import from_plain
from stats.sequential.stop import EarlyStop


class SeedWatch:
    """Looks at a mission whenever one more of its seeds is complete."""

    def __init__(self, spec: MissionSpec, ledger: LedgerClient, stats: Any) -> None:
        self._spec = spec
        self._ledger = ledger
        self._stats = stats
        self._looked = 0
        self._views: list[dict[str, Any]] = []
        self._view_ref: Any = None
        rules = spec.looks is not None or spec.futility is not None
        self._has_rules = rules and spec.withhold_verdict is None
        self.stop: dict[str, Any] | None = None
        """Why the mission ended before its planned seeds, as plain data."""

    @property
    def stop_text(self) -> str:
        """The early end in words; empty where there is none."""
        return "" if self.stop is None else from_plain(EarlyStop, self.stop).text

    def restore(self, reader: LedgerReader) -> None:
        """Takes up what an earlier driver of this run had seen and decided."""
        self._views = list(reader.meta().get(f"interim/{self._spec.id}", []))
        for _, body in reader.bodies("early_stop"):
            if body["mission"] == self._spec.id:
                self.stop = {key: value for key, value in body.items() if key != "mission"}
                self._ledger.call("request_stop", self._spec.id, self.stop_text)
        while self.stop is None and self._views and self._views[-1]["stop"] is not None:
            self._views.pop()  # the driver was gone between the view and what follows from it
        self._looked = max((len(view["seeds"]) for view in self._views), default=0)

    def step(self, reader: LedgerReader) -> None:
        """Takes note of a view that is ready and asks for the next one."""
        import ray

        if self._view_ref is not None:
            ready, _ = ray.wait([self._view_ref], timeout=0)
            if not ready:
                return
            view_ref, self._view_ref = self._view_ref, None
            try:
                found = ray.get(view_ref)
            except ray.exceptions.RayTaskError as error:
                # The verdict reads the same scores and will say what is wrong with them.
                text = f"no INTERIM view of {self._looked} seeds: {first_line(error.cause)}"
                self._ledger.event("warning", self._spec.id, text)
                return
            self._note(reader, found["view"], float(found["cpu_s"]))
        due = next_view(self._standing(reader))
        if due is not None:
            self._looked = due
            name = f"interim {self._spec.id} {due}"
            self._view_ref = self._stats.interim.options(name=name).remote(self._spec.id, due)

    def holds_verdict(self, reader: LedgerReader) -> bool:
        """Whether the file's rules have yet to see a number of seeds that is complete."""
        if not self._has_rules:
            return False
        return self._view_ref is not None or next_view(self._standing(reader)) is not None

    def _note(self, reader: LedgerReader, view: dict[str, Any], cpu_s: float) -> None:
        mission, done = self._spec.id, len(view["seeds"])
        self._views.append(view)
        self._ledger.call("set_meta", f"interim/{mission}", self._views)
        self._ledger.event("info", mission, view["text"])
        self._ledger.timing(mission, "interim", f"{done} seeds", 0.0, cpu_s)
        ends = early_end(
            view["stop"] is not None,
            done=done,
            planned=view["planned"],
            withheld=self._spec.withhold_verdict is not None,
            failed=reader.counts()[mission].get(RunState.FAILED, 0),
        )
        if ends:
            self.stop = view["stop"]
            self._ledger.call("decide", "early_stop", {"mission": mission, **view["stop"]})
            self._ledger.event("info", mission, self.stop_text)
            self._ledger.call("request_stop", mission, self.stop_text)

    def _standing(self, reader: LedgerReader) -> Standing:
        unfinished: dict[int, int] = {}
        gone = reader.orders().arms.get(self._spec.id, ())
        for row in reader.runs(self._spec.id):
            if row.state is not RunState.DONE and row.arm not in gone:
                unfinished[row.seed] = unfinished.get(row.seed, 0) + 1
        return Standing(
            complete=complete_seeds(self._spec.seeds, unfinished),
            looked=self._looked,
            planned=len(self._spec.seeds),
            has_rules=self._has_rules,
            ended=self.stop is not None,
        )

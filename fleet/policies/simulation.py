"""A fleet on a virtual clock: the real policies, thousands of GPUs, failures, preemptions.

The simulator moves time and breaks machines; who starts, waits, is helped or tried again is asked
of `fleet.policies`, as the coordinator asks. Knows no Ray, no model, no clock of the machine.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fleet.policies import (
    Cause,
    Job,
    Load,
    Node,
    admission,
    assign,
    reinforce,
    retry,
    startable,
)
from fleet.policies.simulated import Outcome, Rules, SimMission, Weather, lower_bound

EPSILON_S = 1e-9


def simulate(
    missions: Sequence[SimMission],
    nodes: Sequence[Node],
    *,
    rng: np.random.Generator,
    weather: Weather | None = None,
    rules: Rules | None = None,
) -> Outcome:
    """Runs the missions to their end on these nodes.

    Raises:
        RuntimeError: nothing moves any more although work is left (the policies are at fault).
    """
    return _Simulation(missions, nodes, rng, weather or Weather(), rules or Rules()).run()


@dataclass(kw_only=True, slots=True)
class _Pack:
    """A pack in the queue of its mission."""

    left_s: float
    tries: int = 0


@dataclass(kw_only=True, slots=True, eq=False)
class _Group:
    """A worker group: one worker, or all that share a run."""

    mission: str
    job: Job
    number: int
    at: list[str] = field(default_factory=list)
    """Node of each worker; empty while the group waits for its place."""
    pack: _Pack | None = None
    since_s: float = 0.0
    """When it took up its pack."""
    life: int = 0
    """Grows when the group is broken up: events of an earlier life are void."""
    over: bool = False


class _Simulation:
    """The state of one simulated launch."""

    def __init__(
        self,
        missions: Sequence[SimMission],
        nodes: Sequence[Node],
        rng: np.random.Generator,
        weather: Weather,
        rules: Rules,
    ) -> None:
        self._missions = {mission.job.name: mission for mission in missions}
        self._all_nodes = {node.name: node for node in nodes}
        self._up = dict(self._all_nodes)
        self._free = dict(self._all_nodes)
        self._rng = rng
        self._weather = weather
        self._rules = rules
        self._now = 0.0
        self._events: list[tuple[float, int, str, tuple[object, ...]]] = []
        self._sequence = 0
        self._waiting: list[str] = []
        self._ready_s: dict[str, float] = {}
        self._starts_s: dict[str, float] = {}
        self._ends_s: dict[str, float] = {}
        self._queues = {
            name: deque(_Pack(left_s=seconds) for seconds in mission.pack_s)
            for name, mission in self._missions.items()
        }
        self._open = {name: len(mission.pack_s) for name, mission in self._missions.items()}
        self._groups: list[_Group] = []
        self._of_mission: dict[str, list[_Group]] = {name: [] for name in self._missions}
        self._on_node: dict[str, list[_Group]] = {name: [] for name in self._all_nodes}
        self._returning: dict[str, int] = dict.fromkeys(self._missions, 0)
        self._counts = dict.fromkeys(
            ("done", "failed", "retries", "preemptions", "node failures", "decisions"), 0
        )
        self._lost_s = 0.0

    def run(self) -> Outcome:
        for name, mission in self._missions.items():
            self._at(mission.arrives_s, "arrive", name)
        for name in self._all_nodes:
            self._next_trouble(name)
        while len(self._ends_s) < len(self._missions):
            if not self._events:
                left = sorted(set(self._missions) - set(self._ends_s))
                raise RuntimeError(f"nothing moves, and these are not done: {', '.join(left[:5])}")
            moved = False
            self._now = self._events[0][0]
            while self._events and self._events[0][0] <= self._now + EPSILON_S:
                _, _, kind, what = heapq.heappop(self._events)
                moved |= self._happen(kind, what)
            if moved:
                self._decide()
        return Outcome(
            makespan_s=max(self._ends_s.values()),
            lower_bound_s=lower_bound(
                list(self._missions.values()),
                list(self._all_nodes.values()),
                self._rules.startup_s,
            ),
            waits_s={n: self._starts_s[n] - self._ready_s[n] for n in self._starts_s},
            ends_s=dict(self._ends_s),
            finished_packs=self._counts["done"],
            failed_packs=self._counts["failed"],
            retries=self._counts["retries"],
            preemptions=self._counts["preemptions"],
            node_failures=self._counts["node failures"],
            lost_work_s=self._lost_s,
            decisions=self._counts["decisions"],
        )

    # Events

    def _at(self, when_s: float, kind: str, *what: object) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (when_s, self._sequence, kind, what))

    def _happen(self, kind: str, what: tuple[object, ...]) -> bool:
        """One event; whether it may change what the policies decide."""
        if kind == "arrive":
            self._waiting.append(str(what[0]))
        elif kind in ("ready", "done"):
            group, life = what
            assert isinstance(group, _Group)
            if group.life != life or group.over:
                return False
            return self._go_on(group, done=kind == "done")
        elif kind == "return":
            mission, pack = what
            assert isinstance(pack, _Pack)
            self._returning[str(mission)] -= 1
            self._queues[str(mission)].appendleft(pack)
        elif kind == "up":
            name = str(what[0])
            self._up[name] = self._free[name] = self._all_nodes[name]
            self._next_trouble(name)
        elif kind == "down":
            self._lose(str(what[0]), preempted=bool(what[1]))
        elif kind == "failed":
            self._end_if_over(str(what[0]))
        return True

    def _next_trouble(self, name: str) -> None:
        weather = self._weather
        fails = self._now + self._rng.exponential(1.0) * weather.failure_every_s
        taken = float("inf")
        if self._all_nodes[name].labels.get("market") == "spot":
            taken = self._now + self._rng.exponential(1.0) * weather.preemption_every_s
        if min(fails, taken) < float("inf"):
            self._at(min(fails, taken), "down", name, taken < fails)

    def _lose(self, name: str, *, preempted: bool) -> None:
        """A node goes, with every worker on it."""
        self._counts["preemptions" if preempted else "node failures"] += 1
        del self._up[name], self._free[name]
        weather = self._weather
        self._at(self._now + (weather.replacement_s if preempted else weather.repair_s), "up", name)
        for group in list(self._on_node[name]):
            self._break_up(group, preempted=preempted)

    def _break_up(self, group: _Group, *, preempted: bool) -> None:
        """The group's pack goes back; the group waits for a place, as Train restarts it."""
        group.life += 1
        for node in dict.fromkeys(group.at):
            self._on_node[node].remove(group)
        self._vacate(group)
        pack, group.pack = group.pack, None
        if pack is None:
            return
        done_s = self._now - group.since_s
        every_s = self._rules.checkpoint_every_s
        noticed = preempted and self._weather.notice_s > 0
        kept_s = done_s if noticed else done_s - done_s % every_s if every_s else 0.0
        self._lost_s += done_s - kept_s
        pack.left_s = max(0.0, pack.left_s - kept_s)
        pack.tries += 1
        cause = Cause.PREEMPTED if preempted else Cause.WORKER_DIED
        decision = retry(cause, pack.tries, limit=self._rules.max_tries)
        if not decision.counts:
            pack.tries -= 1
        if decision.again:
            self._counts["retries"] += 1
            self._returning[group.mission] += 1
            self._at(self._now + self._rules.detect_s, "return", group.mission, pack)
        else:
            self._counts["failed"] += 1
            self._open[group.mission] -= 1
            self._at(self._now + self._rules.detect_s, "failed", group.mission)

    def _vacate(self, group: _Group) -> None:
        """Gives the group's place back: what is free is counted anew on its nodes."""
        left, group.at = group.at, []
        for name in set(left) & set(self._up):
            free = self._all_nodes[name]
            for other in self._on_node[name]:
                for node in other.at:
                    if node == name:
                        free = free.without(other.job.request)
            self._free[name] = free

    def _go_on(self, group: _Group, *, done: bool) -> bool:
        """The group takes up its next pack, or leaves."""
        queue = self._queues[group.mission]
        if done:
            group.pack = None
            self._open[group.mission] -= 1
            self._counts["done"] += 1
        if queue:
            group.pack = queue.popleft()
            group.since_s = self._now
            self._at(self._now + group.pack.left_s, "done", group, group.life)
            return False
        group.over = True
        for node in dict.fromkeys(group.at):
            self._on_node[node] = [g for g in self._on_node[node] if g is not group]
        self._vacate(group)
        self._groups.remove(group)
        self._of_mission[group.mission].remove(group)
        self._end_if_over(group.mission)
        return True

    def _end_if_over(self, mission: str) -> None:
        if self._open[mission] == 0 and mission not in self._ends_s:
            self._ends_s[mission] = self._now
            for group in self._of_mission[mission]:
                if group.at:
                    continue
                group.over = True
            alive = [group for group in self._of_mission[mission] if not group.over]
            self._of_mission[mission] = alive
            self._groups = [group for group in self._groups if not group.over]

    # Decisions

    def _decide(self) -> None:
        """Asks the policies, as the coordinator does at each turn of its loop."""
        self._restart()
        self._note_ready()
        spare = self._admit()
        if self._rules.helps:
            self._help(spare)

    def _restart(self) -> None:
        """Groups that lost their place get the first that fits, before anybody new."""
        for group in self._groups:
            if not group.at and not group.over:
                at = assign(group.job, list(self._free.values()))
                if at is not None:
                    names = list(self._free)
                    self._settle(group, [names[position] for position in at])
        for mission, groups in self._of_mission.items():
            if groups or not self._queues[mission] or mission not in self._starts_s:
                continue
            # Everybody had left when a pack came back: a new group, as `_goes_on` starts one.
            self._groups.append(self._new_group(mission))

    def _note_ready(self) -> None:
        for name in self._waiting:
            job = self._missions[name].job
            if all(
                other in self._ends_s or other not in self._missions for other in job.depends_on
            ):
                self._ready_s.setdefault(name, self._now)
                if self._now == self._ready_s[name] and self._rules.patience_s < float("inf"):
                    self._at(self._now + self._rules.patience_s, "patience", name)

    def _admit(self) -> frozenset[str]:
        """Starts whom the policy starts; returns the nodes that are left for helpers."""
        if not self._could_start():
            return frozenset(self._free)
        self._counts["decisions"] += 1
        nodes = list(self._up.values())
        decision = admission(
            [self._missions[name].job for name in self._waiting],
            [replace(group.job, at=tuple(group.at)) for group in self._groups],
            nodes,
            finished=frozenset(self._ends_s),
            launched=frozenset(self._missions),
            waited_s={name: self._now - at for name, at in self._ready_s.items()},
            patience_s=self._rules.patience_s,
        )
        for name, seats in zip(decision.start, decision.at, strict=True):
            self._waiting.remove(name)
            self._starts_s[name] = self._now
            job = self._missions[name].job
            names = [nodes[position].name for position in seats]
            for at in [names] if job.shared else [[node] for node in names]:
                group = self._new_group(name)
                self._groups.append(group)
                self._settle(group, at)
        return frozenset(node.name for node in decision.spare if node.cpus > EPSILON_S)

    def _could_start(self) -> bool:
        """Whether somebody waits for room, as `_admit` of the coordinator asks before it helps."""
        waiting = [self._missions[name].job for name in self._waiting]
        running = [group.job for group in self._groups]
        return bool(
            startable(
                waiting,
                running,
                finished=frozenset(self._ends_s),
                launched=frozenset(self._missions),
            )
        )

    def _help(self, spare: frozenset[str]) -> None:
        while True:
            free = [node for name, node in self._free.items() if name in spare]
            loads = list(self._loads())
            chosen = reinforce(loads, free, startup_s=self._rules.startup_s, on_deck=0)
            if chosen is None:
                return
            group = self._new_group(chosen)
            at = assign(group.job, free)
            assert at is not None
            self._groups.append(group)
            self._settle(group, [free[position].name for position in at])

    def _loads(self) -> Iterator[Load]:
        for name, groups in self._of_mission.items():
            queue = self._queues[name]
            if groups and queue:
                job = self._missions[name].job
                yield Load(
                    job=job if job.shared else replace(job, workers=1),
                    open_packs=len(queue),
                    pack_s=queue[0].left_s,
                    helpers=len(groups),
                )

    def _new_group(self, mission: str) -> _Group:
        job = self._missions[mission].job
        self._sequence += 1
        group = _Group(
            mission=mission,
            job=job if job.shared else replace(job, workers=1),
            number=self._sequence,
        )
        self._of_mission[mission].append(group)
        return group

    def _settle(self, group: _Group, names: Sequence[str]) -> None:
        group.at = list(names)
        for name in names:
            self._free[name] = self._free[name].without(group.job.request)
            if group not in self._on_node[name]:
                self._on_node[name].append(group)
        self._at(self._now + self._rules.startup_s, "ready", group, group.life)

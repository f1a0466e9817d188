"""The policies on a virtual clock: bounds that hold for every draw of missions and troubles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.policies import Job, Node, Request, urgent_first
from fleet.policies.simulated import Rules, SimMission, Weather, lower_bound
from fleet.policies.simulation import simulate

NODES = [
    Node(
        name=f"n{i}",
        cpus=8,
        gpus=4,
        memory_mib=64_000,
        labels={"market": "spot" if i % 2 else "on-demand"},
    )
    for i in range(4)
]


@st.composite
def campaigns(draw: st.DrawFn) -> list[SimMission]:
    missions: list[SimMission] = []
    for i in range(draw(st.integers(1, 8))):
        earlier = [mission.job.name for mission in missions]
        after = draw(st.sampled_from(["", *earlier]))
        request = Request(
            cpus=draw(st.sampled_from([1.0, 2.0, 4.0])),
            gpus=draw(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 4.0])),
            memory_mib=1000,
            labels=draw(st.sampled_from([{}, {}, {"market": "!spot"}])),
        )
        missions.append(
            SimMission(
                job=Job(
                    name=f"m{i}",
                    request=request,
                    workers=draw(st.integers(1, 2)),
                    depends_on=(after,) if after else (),
                    shared=draw(st.booleans()),
                ),
                pack_s=tuple(draw(st.lists(st.floats(1, 500), min_size=1, max_size=6))),
                arrives_s=draw(st.sampled_from([0.0, 0.0, 100.0])),
            )
        )
    return missions


@given(missions=campaigns(), seed=st.integers(0, 2**32 - 1), bad=st.booleans())
@settings(deadline=None, max_examples=60)
def test_everything_ends_within_bounds(missions: list[SimMission], seed: int, bad: bool) -> None:
    weather = Weather(failure_every_s=3000, preemption_every_s=1500) if bad else Weather()
    rules = Rules(patience_s=100.0, max_tries=1000)
    found = simulate(missions, NODES, rng=np.random.default_rng(seed), weather=weather, rules=rules)
    packs = sum(len(mission.pack_s) for mission in missions)
    assert (found.finished_packs, found.failed_packs) == (packs, 0)
    assert found.makespan_s >= lower_bound(missions, NODES, rules.startup_s) - 1e-6
    for mission in missions:
        for other in mission.job.depends_on:
            assert found.ends_s[mission.job.name] > found.ends_s[other]
    if not bad:
        # List scheduling: never longer than everything one after the other.
        alone = sum(sum(m.pack_s) + rules.startup_s for m in missions) + 100.0
        assert found.makespan_s <= alone + 1e-6
        assert found.lost_work_s == 0.0


def stream_of_small(large: Job) -> list[SimMission]:
    """One job that needs a whole node, in a stream of small ones that never ends on its own."""
    small = Request(cpus=1, gpus=1, memory_mib=100)
    stream = [
        SimMission(job=Job(name=f"s{i:03d}", request=small), pack_s=(200.0,), arrives_s=10.0 * i)
        for i in range(300)
    ]
    return [*stream[:20], SimMission(job=large, pack_s=(100.0,), arrives_s=150.0), *stream[20:]]


def test_nobody_starves() -> None:
    large = Job(name="large", request=Request(cpus=8, gpus=4, memory_mib=100))
    nodes = NODES[:1] * 1 + [Node(name="m", cpus=8, gpus=4, memory_mib=64_000)]
    missions = stream_of_small(large)
    rng = np.random.default_rng(0)
    without = simulate(missions, nodes, rng=rng, rules=Rules(helps=False))
    with_it = simulate(missions, nodes, rng=rng, rules=Rules(helps=False, patience_s=300.0))
    # Overtaken for as long as the stream flows; with patience: that, and what runs on the node.
    assert without.waits_s["large"] > 2000
    assert with_it.waits_s["large"] <= 300.0 + 200.0 + 12.0 + 1.0
    assert with_it.finished_packs == without.finished_packs


def test_a_preemption_with_notice_loses_nothing_and_is_not_counted() -> None:
    mission = SimMission(
        job=Job(name="m", request=Request(cpus=1, labels={"market": "spot"})),
        pack_s=(1000.0,) * 4,
    )
    found = simulate(
        [mission],
        NODES,
        rng=np.random.default_rng(1),
        weather=Weather(preemption_every_s=400.0),
        rules=Rules(max_tries=1, helps=False),
    )
    assert found.preemptions > 2
    assert (found.finished_packs, found.failed_packs, found.lost_work_s) == (4, 0, 0.0)


def test_a_failure_loses_at_most_a_checkpoint_interval() -> None:
    mission = SimMission(job=Job(name="m", request=Request(cpus=1)), pack_s=(2000.0,) * 4)
    found = simulate(
        [mission],
        NODES,
        rng=np.random.default_rng(3),
        weather=Weather(failure_every_s=2000.0),
        rules=Rules(checkpoint_every_s=50.0, max_tries=1000, helps=False),
    )
    assert found.retries > 0
    assert found.lost_work_s <= 50.0 * found.retries


def test_urgent_first_is_the_best_of_all_orders_on_chains() -> None:
    durations = {"a": 5.0, "b": 4.0, "c": 1.0, "d": 6.0}
    after = {"d": ("c",)}
    # c is the shortest, and d hangs on it.
    assert urgent_first(durations, after) == ("c", "d", "a", "b")
    nodes = [Node(name="n", cpus=2)]

    def makespan(order: tuple[str, ...]) -> float:
        missions = [
            SimMission(
                job=Job(name=n, request=Request(cpus=1), depends_on=after.get(n, ())),
                pack_s=(durations[n],),
            )
            for n in order
        ]
        rules = Rules(startup_s=0.0, helps=False)
        return simulate(missions, nodes, rng=np.random.default_rng(0), rules=rules).makespan_s

    assert makespan(urgent_first(durations, after)) == min(
        makespan(order) for order in itertools.permutations(durations)
    )
    with pytest.raises(ValueError, match="a, b"):
        urgent_first({"a": 1.0, "b": 1.0}, {"a": ("b",), "b": ("a",)})

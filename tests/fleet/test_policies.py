import itertools

import pytest

from fleet.policies import (
    Cause,
    Job,
    LeaseVerdict,
    Load,
    Node,
    Request,
    admit,
    judge_lease,
    place,
    preflight,
    reinforce,
    retry,
    schedule,
)

LAPTOP = Node(name="laptop", cpus=2, memory_mib=8000)


def job(name: str, cpus: float = 1, *, gpus: float = 0, workers: int = 1, after: str = "") -> Job:
    return Job(
        name=name,
        request=Request(cpus=cpus, gpus=gpus, memory_mib=1000),
        workers=workers,
        depends_on=(after,) if after else (),
    )


def test_two_at_once_on_two_cores() -> None:
    waiting = [job(name) for name in "ABCDE"]
    assert admit(waiting, [], [LAPTOP]) == ("A", "B")
    assert admit(waiting[2:], waiting[:2], [LAPTOP]) == ()
    assert admit(waiting[2:], waiting[1:2], [LAPTOP]) == ("C",)


def test_one_on_deck_and_no_more() -> None:
    waiting = [job(name) for name in "ABCDE"]
    assert admit(waiting, [], [LAPTOP], on_deck=1) == ("A", "B", "C")
    assert admit(waiting[3:], waiting[:3], [LAPTOP], on_deck=1) == ()
    # One has ended: C has its slot now, D comes on deck.
    assert admit(waiting[3:], waiting[1:3], [LAPTOP], on_deck=1) == ("D",)


def test_memory_limits_admission_too() -> None:
    small = Node(name="small", cpus=8, memory_mib=1500)
    assert admit([job("A"), job("B")], [], [small]) == ("A",)


def test_a_job_that_does_not_fit_now_does_not_block_a_smaller_one() -> None:
    assert admit([job("A", 2), job("B", 1)], [job("C", 1)], [LAPTOP]) == ("B",)


def test_dependencies_come_first() -> None:
    waiting = [job("B", after="A"), job("A")]
    assert admit(waiting, [], [LAPTOP]) == ("A",)
    assert admit(waiting[:1], [], [LAPTOP], finished=frozenset({"A"})) == ("B",)
    # A mission that is not launched cannot be waited for.
    assert admit([job("B", after="Z")], [], [LAPTOP]) == ("B",)


def test_a_mission_that_waits_for_its_verdict_holds_up_its_dependants() -> None:
    # A's workers have left: it neither waits nor runs, and it is not finished.
    launched = frozenset({"A", "B"})
    assert admit([job("B", after="A")], [], [LAPTOP], launched=launched) == ()
    done = frozenset({"A"})
    assert admit([job("B", after="A")], [], [LAPTOP], launched=launched, finished=done) == ("B",)


def test_admission_never_exceeds_a_node() -> None:
    nodes = [Node(name="a", cpus=3, memory_mib=9000), Node(name="b", cpus=2, memory_mib=9000)]
    jobs = [job("A", 2), job("B", 2), job("C", 1), job("D", 2)]
    for order in itertools.permutations(jobs):
        chosen = [j for j in order if j.name in admit(order, [], nodes)]
        left = place(chosen, nodes)
        assert left is not None
        assert all(node.cpus >= 0 for node in left)


def test_preflight_speaks_in_numbers() -> None:
    lines = preflight([job("A", 4, gpus=1), job("B")], [LAPTOP])
    assert len(lines) == 1
    assert "Mission A asks for 4 CPU, 1 GPU, 1,000 MiB" in lines[0]
    assert "largest node (laptop) has 2 CPU, 0 GPU, 8,000 MiB" in lines[0]
    assert "3 workers" in preflight([job("C", workers=3)], [LAPTOP])[0]
    assert "no node" in preflight([job("A")], [])[0]


@pytest.mark.parametrize(
    ("cause", "tries", "again", "counts"),
    [
        (Cause.WORKER_DIED, 1, True, True),
        (Cause.WORKER_DIED, 3, False, True),
        (Cause.ERROR, 1, False, True),
        (Cause.NONFINITE, 1, False, True),
        (Cause.STOPPED, 1, False, False),
        (Cause.PREEMPTED, 99, True, False),
    ],
)
def test_retry(cause: Cause, tries: int, again: bool, counts: bool) -> None:
    decision = retry(cause, tries, limit=3)
    assert (decision.again, decision.counts) == (again, counts)
    assert decision.reason


def test_leases_go_stale_then_lost() -> None:
    verdicts = [judge_lease(s, stale_after_s=30) for s in (0, 29.9, 30, 59.9, 60)]
    assert verdicts == [
        LeaseVerdict.ALIVE,
        LeaseVerdict.ALIVE,
        LeaseVerdict.STALE,
        LeaseVerdict.STALE,
        LeaseVerdict.LOST,
    ]


def load(name: str, open_packs: int, pack_s: float = 40, helpers: int = 1) -> Load:
    return Load(job=job(name), open_packs=open_packs, pack_s=pack_s, helpers=helpers)


def test_idle_slots_help_where_the_queue_is_longest() -> None:
    free = [Node(name="n", cpus=1, memory_mib=4000)]
    kwargs = {"startup_s": 12.0, "on_deck": 0}
    assert reinforce([load("A", 1), load("B", 3)], free, **kwargs) == "B"
    assert reinforce([load("A", 0), load("B", 0)], free, **kwargs) is None
    assert reinforce([load("A", 1, pack_s=10)], free, **kwargs) is None, "not worth a start-up"
    assert reinforce([load("A", 3)], [], **kwargs) is None
    assert reinforce([load("A", 3)], free, startup_s=12.0, on_deck=1) is None


def test_schedule_is_list_scheduling() -> None:
    assert schedule({"a": 5, "b": 4, "c": 3}, 2) == 7
    assert schedule({"a": 5, "b": 4, "c": 3}, 1) == 12
    assert schedule({}, 2) == 0

"""Shares of GPUs, labels, custom resources, reservations and waits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.policies import (
    Holder,
    Job,
    Node,
    Request,
    Wait,
    admission,
    admit,
    explain_wait,
    matches,
    overdue,
    place,
    preflight,
)

GPU_BOX = Node(name="box", cpus=8, gpus=2, memory_mib=64_000, labels={"market": "spot"})


def job(name: str, *, workers: int = 1, at: tuple[str, ...] = (), **request: object) -> Job:
    asked = Request(**{"cpus": 1.0, **request})  # type: ignore[arg-type]
    return Job(name=name, request=asked, workers=workers, at=at)


def test_shares_do_not_add_up_across_gpus() -> None:
    # Three workers at 1/2 take one and a half GPUs; the free half is not a GPU's 1/1 but a 1/2.
    left = place([job("A", workers=3, gpus=0.5)], [GPU_BOX])
    assert left is not None
    assert left[0].gpus == pytest.approx(0.5)
    assert left[0].whole_gpus == 0
    assert left[0].fits(Request(cpus=1, gpus=0.5))
    assert not left[0].fits(Request(cpus=1, gpus=1))
    # 1/2 and 1/3 on one GPU leave 1/6, and the other GPU stays whole.
    left = place([job("A", gpus=1 / 2), job("B", gpus=1 / 3)], [GPU_BOX])
    assert left is not None
    assert left[0].whole_gpus == 1
    assert left[0].shares == (pytest.approx(1 / 6),)


@given(k=st.integers(2, 100), gpus=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_k_workers_share_a_gpu_and_ray_agrees(k: int, gpus: int) -> None:
    request = Request(cpus=0.01, gpus=1 / k)
    box = Node(name="box", cpus=100, gpus=gpus)
    full = place([Job(name="A", request=request, workers=k * gpus)], [box])
    assert full is not None
    assert not full[0].fits(request)
    # In Ray's ten-thousandths they fit as well, with less than a worker's share left over.
    units = round(request.as_ray()["GPU"] * 10_000)
    assert units * k <= 10_000 < units * (k + 1)


def test_a_job_without_gpus_spares_the_gpu_node() -> None:
    nodes = [GPU_BOX, Node(name="plain", cpus=2, memory_mib=8_000)]
    decision = admission([job("A", workers=2), job("B")], [], nodes)
    assert decision.at == ((1, 1), (0,))


@pytest.mark.parametrize(
    ("selector", "label", "expected"),
    [
        ("spot", "spot", True),
        ("spot", None, False),
        ("!spot", "spot", False),
        ("!spot", "on-demand", True),
        ("!spot", None, True),
        ("in(spot, on-demand)", "on-demand", True),
        ("in(spot, on-demand)", "reserved", False),
        ("!in(spot,on-demand)", "spot", False),
        ("!in(spot,on-demand)", None, True),
    ],
)
def test_selectors(selector: str, label: str | None, expected: bool) -> None:
    labels = {} if label is None else {"market": label}
    assert matches({"market": selector}, labels) is expected


def test_preflight_names_what_is_missing() -> None:
    (line,) = preflight([job("A", labels={"market": "reserved"})], [GPU_BOX])
    assert "label market=reserved" in line
    assert "the cluster has market=spot" in line
    (line,) = preflight([job("A", custom={"licence": 2})], [GPU_BOX])
    assert "2 licence a worker; no node has more than 0 licence" in line
    (line,) = preflight([job("A", gpus=4.0)], [GPU_BOX])
    assert "4 GPU" in line
    assert "largest node (box) has 8 CPU, 2 GPU" in line
    (line,) = preflight([job("A", gpus=1.0, workers=3)], [GPU_BOX])
    assert "together hold 2 of them when idle" in line


def test_workers_count_where_they_were_seen() -> None:
    nodes = [Node(name="a", cpus=2), Node(name="b", cpus=2)]
    here = job("A", at=("a",), cpus=2.0)
    assert admission([job("B", cpus=2.0)], [here], nodes).at == ((1,),)
    # Its node is gone: the worker has to come up elsewhere, and its place is kept.
    assert admit([job("B", cpus=2.0), job("C", cpus=2.0)], [job("A", cpus=2.0)], nodes) == ("B",)


def test_who_waits_too_long_gets_a_reservation() -> None:
    nodes = [Node(name="a", cpus=4), Node(name="b", cpus=1)]
    running = [job("old", at=("a",), cpus=2.0), job("new", at=("a",), cpus=1.0)]
    waiting = [job("large", cpus=4.0), job("small"), job("other")]
    # Without patience running out, the small ones go on overtaking it.
    assert admit(waiting, running, nodes) == ("small", "other")
    decision = admission(waiting, running, nodes, waited_s={"large": 700.0}, patience_s=600.0)
    # Node a is kept; b, which the large one cannot use, goes on working.
    assert decision.reserved_for == "large"
    assert decision.start == ("small",)
    assert decision.at == ((1,),)


def test_a_wait_beyond_the_limit_says_who_holds_what() -> None:
    wait = Wait(
        mission="C", request=Request(cpus=4, gpus=1, memory_mib=2048), workers=2, waited_s=601
    )
    assert overdue([wait], limit_s=600) == (wait,)
    assert overdue([wait], limit_s=602) == ()
    text = explain_wait(
        wait,
        [
            Holder(who="mission A", what="4 CPU, 1 GPU", node="10.0.0.2/ab"),
            Holder(who="placement group tune", what="1 GPU"),
        ],
        [Node(name="10.0.0.2/ab", cpus=4, gpus=0, memory_mib=900)],
        limit_s=600,
    )
    assert text == (
        "Mission C waited 601 s (limit 600 s) for 2 worker(s) of 4 CPU, 1 GPU, 2,048 MiB. Held: "
        "mission A holds 4 CPU, 1 GPU on 10.0.0.2/ab; placement group tune holds 1 GPU. Free: "
        "10.0.0.2/ab: 4 CPU, 0 GPU, 900 MiB."
    )

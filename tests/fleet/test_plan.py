import pytest
from fake_catalog import document, fake_spec

from fleet.errors import ConfigError, UsageError
from fleet.keys import run_key
from fleet.plan import arms_by_mission, plan_campaign, select_arms
from missions.local import packs_of
from missions.spec import MissionSpec, parse_spec


def plan(*specs: MissionSpec):
    return plan_campaign(specs, run_id="r", profile="laptop", code_version="code")


def with_changes(mission_id: str, **changes: object) -> MissionSpec:
    return parse_spec({**document(mission_id), **changes}, "test")


@pytest.mark.parametrize("pack", ["seed", "run"])
def test_packs_agree_with_the_local_runner(pack: str) -> None:
    spec = with_changes("F1", pack=pack)
    ours = [(p.name, [(r.name, r.arm, r.seed) for r in p.runs]) for p in plan(spec).works[0].packs]
    theirs = [(p.name, [(r.name, r.arm, r.seed) for r in p.runs]) for p in packs_of(spec)]
    assert ours == theirs


def test_the_longest_chain_first() -> None:
    short = with_changes("A", resources={"expected_cpu_s": 1})
    middle = with_changes("B", resources={"expected_cpu_s": 50})
    long = with_changes("C", resources={"expected_cpu_s": 99}, depends_on=["A"])
    works = plan(short, middle, long).works
    # C waits for A, so A, short as it is, is the most urgent.
    assert [work.mission for work in works] == ["A", "C", "B"]
    assert [work.position for work in works] == [0, 1, 2]


def test_a_circle_of_dependencies_is_refused() -> None:
    first, second = with_changes("A", depends_on=["B"]), with_changes("B", depends_on=["A"])
    with pytest.raises(ConfigError, match="circle among missions A, B"):
        plan(first, second)


def test_keys_tell_everything_apart() -> None:
    base = {
        "mission_hash": "m",
        "arm_hash": "a",
        "seed": 0,
        "code_version": "c",
        "data_hash": "d",
    }
    keys = {run_key(**base)}  # type: ignore[arg-type]
    for name in base:
        keys.add(run_key(**{**base, name: 1 if name == "seed" else "x"}))  # type: ignore[arg-type]
    assert len(keys) == 6
    assert run_key(**base) in keys  # type: ignore[arg-type]


def test_expected_wall_time_is_a_schedule() -> None:
    specs = [with_changes(name, resources={"expected_cpu_s": 100}) for name in "ABC"]
    campaign = plan(*specs)
    assert campaign.expected_wall_s(1) > campaign.expected_wall_s(2) > campaign.expected_wall_s(3)
    assert campaign.expected_cpu_s == 300


def test_leaving_out_an_ablation_keeps_the_verdict() -> None:
    spec = select_arms(fake_spec(), ["plain", "treated"])
    assert list(spec.arms) == ["treated", "plain"]
    assert [gate.id for gate in spec.gates] == ["better"]
    assert spec.withhold_verdict is None


def test_leaving_out_a_control_withholds_the_verdict() -> None:
    changed = document("F1")
    changed["arms"]["extra"]["role"] = "control"
    spec = select_arms(parse_spec(changed, "test"), ["treated", "plain"])
    assert spec.withhold_verdict == "arms left out by --arms: extra"


def test_arms_are_checked() -> None:
    with pytest.raises(UsageError, match=r"no arm 'treted'.*Did you mean 'treated'"):
        select_arms(fake_spec(), ["treted"])
    with pytest.raises(UsageError, match="primary gate: plain, treated"):
        select_arms(fake_spec(), ["treated", "extra"])
    specs = {"F1": fake_spec("F1"), "F2": fake_spec("F2")}
    assert arms_by_mission(["F1:plain", "treated"], specs) == {
        "F1": ("plain", "treated"),
        "F2": ("treated",),
    }
    with pytest.raises(UsageError, match="'F3' is not launched"):
        arms_by_mission(["F3:plain"], specs)
    with pytest.raises(UsageError, match="no launched mission has arm 'plane'"):
        arms_by_mission(["plane"], specs)


def test_two_arms_with_the_same_settings_are_refused() -> None:
    plain = document("F1")
    arms = plain["arms"]
    name, settings = next(iter(arms.items()))
    twin = {**plain, "arms": {**arms, "twin": settings}}
    with pytest.raises(ConfigError, match=f"arms '{name}' and 'twin' have the same settings"):
        plan_campaign([parse_spec(twin, "test")], run_id="r", profile="laptop", code_version="c")

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bem.base import BaseModel, load_base
from bem.data import IGNORED
from bem.planner import MacroPolicy, PlanSpace
from bem.sizing import count_parameters
from bem.testing import write_tiny_base
from missions.agentic_planner import contest, world
from missions.agentic_planner.chains import (
    NOBODY,
    SKILLS,
    Marks,
    budgets,
    training_batch,
)
from missions.agentic_planner.mission import MISSION
from missions.agentic_planner.params import Params
from missions.agentic_planner.scoring import (
    FusedContestant,
    GivenPlans,
    PolicyContestant,
    gold_answers,
    run_contestant,
    run_plans,
    token_f1,
    with_plans,
)
from missions.agentic_planner.skills import FUSED, BatchStream, adapter_config
from missions.base_model import bundled_path
from missions.data.tokenizer import MISSION_TOKENS
from missions.local import LocalResult, run_local
from missions.registry import mission_file
from missions.spec import MissionSpec, load_spec

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def base(base_folder: Path) -> BaseModel:
    return load_base(base_folder)


@pytest.fixture(scope="module")
def spec(base_folder: Path) -> MissionSpec:
    smoke = load_spec(mission_file("A"), profile="smoke")
    return smoke.model_copy(update={"base_model": str(base_folder), "base_floor": {}})


@pytest.fixture(scope="module")
def params(spec: MissionSpec) -> Params:
    return Params.model_validate(spec.params)


@pytest.fixture(scope="module")
def results(spec: MissionSpec, tmp_path_factory: pytest.TempPathFactory) -> list[LocalResult]:
    return [run_local(MISSION, spec, tmp_path_factory.mktemp(f"run{i}")) for i in range(2)]


@pytest.fixture(scope="module")
def field(
    base: BaseModel, spec: MissionSpec, params: Params, tmp_path_factory: pytest.TempPathFactory
) -> contest.Ground:
    folder = tmp_path_factory.mktemp("field")
    items = world.build(folder, spec.data_seed, spec.examples, params.data)
    return contest.ground(base, items["train"], params)


@pytest.mark.parametrize("profile", ["laptop", "smoke", "cluster"])
def test_profiles_resolve(profile: str) -> None:
    resolved = load_spec(mission_file("A"), profile=profile)
    Params.model_validate(resolved.params)
    assert resolved.examples.test % 5 == 0
    if profile == "laptop":
        assert resolved.examples.test >= 1000
        assert len(resolved.seeds) == 5


def test_treatment_and_control_are_of_equal_size_on_the_bundled_base() -> None:
    bundled = load_base(bundled_path())
    laptop = Params.model_validate(load_spec(mission_file("A")).params)
    policy = MacroPolicy.count_parameters(
        PlanSpace(SKILLS, laptop.policy.horizon),
        feature_size=3 * bundled.hidden_size,
        width=laptop.policy.width,
    )
    experts = len(SKILLS) * count_parameters(adapter_config(laptop.skill), bundled)
    fused = count_parameters(adapter_config(laptop.fused), bundled)
    assert abs((experts + policy) / fused - 1) < 0.05


def test_smoke_ends_with_every_arm_and_no_verdict(
    results: list[LocalResult], spec: MissionSpec
) -> None:
    result = results[0]
    assert result.verdict.verdict == "WITHHELD"
    frame = result.scores.frame
    em = frame[frame["metric"] == "em"]
    assert em.groupby(["arm", "seed"]).size().tolist() == [20] * 6
    assert set(em["arm"]) == set(spec.arms)
    slices = {f"em_{kind}" for kind in ("F", "ReF", "RF", "RReF", "TRAP")}
    assert slices <= set(frame["metric"])
    for artifact in result.artifacts.values():
        kinds = {path.suffix for path in artifact.path.rglob("*") if path.is_file()}
        assert kinds <= {".safetensors", ".json"}
        assert artifact.cost.forward_flops > 0


def test_smoke_twice_is_bit_identical(results: list[LocalResult]) -> None:
    first, second = results
    assert first.scores.digest() == second.scores.digest()
    assert first.prepared.data_digest == second.prepared.data_digest
    for run, artifact in first.artifacts.items():
        assert artifact.cost == second.artifacts[run].cost


def test_report_extras_cover_arms_and_types(
    results: list[LocalResult], spec: MissionSpec, tmp_path: Path
) -> None:
    from missions.local import LocalContext

    ctx = LocalContext(spec, tmp_path, torch.device("cpu"))
    extras = MISSION.report_extras(spec, ctx, results[0].artifacts, results[0].scores)
    assert [row[0] for row in extras[0].rows] == list(spec.arms)  # type: ignore[union-attr]
    assert len(extras[-1].rows) == 7  # type: ignore[union-attr]


def test_marks_are_the_claimed_tokens_where_they_exist(base: BaseModel) -> None:
    class World:
        bos_token_id = 100
        eos_token_id = 101

        def get_vocab(self) -> dict[str, int]:
            return {token: i for i, token in enumerate(MISSION_TOKENS)}

    marks = Marks.of(World())
    assert {MISSION_TOKENS[i] for i in marks.marker.values()} == {"<plan0>", "<plan1>", "<plan2>"}
    assert (marks.separator, marks.restart) == (101, (101, 100))
    foreign = Marks.of(base.tokenizer)
    assert len({*foreign.marker.values(), foreign.separator}) == 4


def test_chains_decode_to_their_texts(base: BaseModel, field: contest.Ground) -> None:
    marks = field.setting.marks
    for chain in field.train[:20]:
        query = chain.item.query
        assert base.tokenizer.decode(list(chain.prompt)).endswith(query.prompt)
        assert [c.skill for c in chain.chunks] == [skill for skill, _ in query.chain]
        written: str | None = None
        for chunk, (skill, text_of_step) in zip(chain.chunks, query.chain, strict=True):
            assert chunk.written[-1] == marks.separator
            assert base.tokenizer.decode(list(chunk.written[:-1])) == text_of_step
            assert chunk.given[0] == marks.marker[skill]
            question, _, facts = query.prompt.rstrip("\n").partition(": ")
            told = facts if written is None else written
            copied = f"copy: {'; '.join(chain.item.retrieved)}\n"
            shown = copied if skill == "R" else f"{question}: {told}\n"
            written = text_of_step
            text = base.tokenizer.decode(list(chunk.given[1:]), skip_special_tokens=True)
            assert text == shown
    longest = budgets(field.train)
    assert all(
        len(c.written) - 1 <= longest[c.skill] for chain in field.train for c in chain.chunks
    )


@pytest.mark.parametrize("learn_markers", [False, True])
def test_labels_and_owners_of_a_batch(field: contest.Ground, learn_markers: bool) -> None:
    chains = field.train[:10]
    batch, skill_BT = training_batch(
        chains, pad_id=0, learn_markers=learn_markers, device=torch.device("cpu")
    )
    for row, chain in enumerate(chains):
        position = len(chain.prompt)
        assert set(skill_BT[row, :position].tolist()) == {NOBODY}
        assert set(batch.labels_BT[row, :position].tolist()) == {IGNORED}
        assert bool(batch.prefix_mask_BT[row, :position].all())
        assert not bool(batch.prefix_mask_BT[row, position:].any())
        for chunk in chain.chunks:
            end = position + len(chunk.given) + len(chunk.written)
            acting = [SKILLS.index(chunk.skill)] * (1 + len(chunk.written))
            expected = [NOBODY] * (len(chunk.given) - 1) + acting
            assert skill_BT[row, position:end].tolist() == expected
            first = chunk.given[0] if learn_markers else IGNORED
            rest = [IGNORED] * (len(chunk.given) - 1)
            assert batch.labels_BT[row, position:end].tolist() == [first, *rest, *chunk.written]
            position = end
        assert int(batch.attention_mask_BT[row].sum()) == position == chain.length


def test_every_chain_comes_once_an_epoch(field: contest.Ground) -> None:
    batches = BatchStream(lambda: field.train, 7, np.random.default_rng(0))
    seen: list[str] = []
    while len(seen) < len(field.train):
        seen += [chain.item.query.id for chain in next(batches)]
    assert sorted(seen) == sorted(chain.item.query.id for chain in field.train)


def test_the_planner_as_served_equals_its_row_of_the_plan_table(
    base: BaseModel, field: contest.Ground, params: Params
) -> None:
    planner = contest.build_planner(
        base, field, params, 0, log=lambda step, metrics: None, should_stop=lambda: False
    )
    with torch.no_grad():  # an untrained policy that picks different plans
        planner.policy.out_AH.normal_(generator=torch.Generator().manual_seed(1))
    chains = field.train[:20]
    table = run_plans(planner.host, chains, field.setting)
    plans = planner.policy.plan(table.features_QF)
    assert len(set(plans)) > 1
    served = run_contestant(planner.host, chains, field.setting, PolicyContestant(planner.policy))
    expected = table.of(plans)
    planner.host.detach()
    assert served.plans == plans
    assert served.texts == expected.texts
    np.testing.assert_array_equal(served.tokens_QS, expected.tokens_QS)
    np.testing.assert_array_equal(served.acting_QS, expected.acting_QS)


def test_the_fused_arm_formats_last_and_stays_in_budget(
    base: BaseModel, field: contest.Ground, params: Params
) -> None:
    trained = contest.build_fused(
        base, field, params, 0, scored=None, log=lambda *_: None, should_stop=lambda: False
    )
    chains = field.train[:20]
    answers = run_contestant(trained.host, chains, field.setting, FusedContestant(field.setting))
    trained.host.detach()
    for chain, plan, tokens in zip(chains, answers.plans, answers.tokens_QS, strict=True):
        assert plan in PlanSpace(SKILLS, 3).plans
        assert plan.endswith("F")
        assert tokens[0] == len(chain.prompt)
        for skill, used in zip(SKILLS, tokens[1:], strict=True):
            if skill not in plan:
                assert used == 0
                continue
            before = plan[: plan.index(skill)]
            wrote = field.setting.budget[before[-1]] if before else 0
            told = [0] * wrote if before else None
            least = len(chain.parts.given(skill, field.setting.marks, [] if before else None)) + 1
            most = len(chain.parts.given(skill, field.setting.marks, told)) + 1
            assert least <= used <= most + field.setting.budget[skill]


def test_given_plans_rerun_only_what_differs(
    base: BaseModel, field: contest.Ground, params: Params
) -> None:
    trained = contest.build_fused(
        base, field, params, 0, scored=None, log=lambda *_: None, should_stop=lambda: False
    )
    chains, setting = field.train[:10], field.setting
    own = run_contestant(trained.host, chains, setting, FusedContestant(setting))
    assert with_plans(trained.host, chains, setting, own, own.plans).texts == own.texts
    plans = [own.plans[0], *["EF" if plan == "F" else "F" for plan in own.plans[1:]]]
    given = with_plans(trained.host, chains, setting, own, plans)
    whole = run_contestant(trained.host, chains, setting, GivenPlans(plans))
    trained.host.detach()
    assert given.plans == whole.plans == plans
    assert given.texts == whole.texts
    np.testing.assert_array_equal(given.tokens_QS, whole.tokens_QS)


def test_saved_policies_choose_the_same_plans(
    base: BaseModel, field: contest.Ground, params: Params, tmp_path: Path
) -> None:
    planner = contest.build_planner(
        base, field, params, 0, log=lambda step, metrics: None, should_stop=lambda: False
    )
    features = planner.scored.answers.features_QF
    with torch.no_grad():
        planner.policy.out_AH.normal_(generator=torch.Generator().manual_seed(1))
        planner.policy.mean_F.copy_(features.mean(0))
    contest.save_policy(planner.policy, tmp_path)
    loaded = contest.load_policy(tmp_path, field.setting.space, base.device)
    planner.host.detach()
    assert loaded.plan(features) == planner.policy.plan(features)


def test_gold_counts_equal_the_training_batch(field: contest.Ground) -> None:
    chains = field.train[:10]
    gold = gold_answers(chains)
    batch, skill_BT = training_batch(
        chains, pad_id=0, learn_markers=False, device=torch.device("cpu")
    )
    lengths = batch.attention_mask_BT.sum(1).tolist()
    assert gold.tokens_QS.sum(1).tolist() == lengths
    acting = [[int((row == i).sum()) for i in range(3)] for row in skill_BT]
    assert gold.acting_QS[:, 1:].tolist() == acting


def test_token_f1_on_worked_examples() -> None:
    assert token_f1('{"max":"dola"}', '{"max":"dola"}') == 1.0
    assert token_f1('{"max":"kamir"}', '{"max":"dola"}') == pytest.approx(0.5)
    assert token_f1('{"sort":"a b"}', '{"sort":"b a"}') == 1.0
    assert token_f1("dola", '{"max":"dola"}') == pytest.approx(2 / 3)
    assert token_f1("", '{"max":"dola"}') == 0.0


def test_an_unknown_arm_word_is_named(spec: MissionSpec, tmp_path: Path) -> None:
    from missions.errors import SpecError

    arms = {**spec.arms, "odd": spec.arms["planner"].model_copy(update={"adapter": "fusd"})}
    odd = spec.model_copy(update={"arms": arms})
    with pytest.raises(SpecError, match=r"arms.odd.adapter: 'fusd'. Known: .*fused"):
        run_local(MISSION, odd, tmp_path)
    assert FUSED == "fused"

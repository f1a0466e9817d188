import numpy as np
import pytest
import torch

from bem.memory import MemoryLM
from missions.errors import SpecError
from missions.local import LocalContext, run_local
from missions.long_memory.data import TestSet
from missions.long_memory.mission import check_bytes, memory_bytes
from missions.long_memory.params import ArmParams, LongMemoryParams
from missions.long_memory.scoring import LengthResult, length_name, score_table
from missions.long_memory.training import answer_weights, build, parameter_groups
from missions.protocol import Pack, ReportFigure, ReportTable, Run
from missions.registry import load_mission, resolve


def models() -> dict[str, MemoryLM]:
    spec = resolve("E")
    params = LongMemoryParams.model_validate(spec.params)
    return {
        arm: build(params, ArmParams.model_validate(config.params), seed=0)
        for arm, config in spec.arms.items()
    }


def test_memories_are_of_equal_bytes_and_arms_at_parity() -> None:
    built = models()
    sizes = {arm: memory_bytes(model) for arm, model in built.items()}
    assert sizes["delta"] == 21 * 96 * 4
    assert sizes["kv_slots"] == 62 * (16 + 16 + 1) * 4
    assert sizes["window_sink"] == 31 * (32 + 32 + 1) * 4
    check_bytes(sizes, 0.02)
    with pytest.raises(SpecError, match=r"kv_slots.*8184 bytes.*8060"):
        check_bytes(sizes, 0.01)
    for arm in ("kv_slots", "window_sink"):
        for measure in (
            lambda m: m.forward_flops(512),
            lambda m: sum(p.numel() for p in m.parameters()),
        ):
            assert abs(measure(built["delta"]) / measure(built[arm]) - 1) < 0.05


def test_the_loss_weights_are_means() -> None:
    answers = torch.tensor([[True, False, False], [True, True, False]])
    ce = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    loss = (answer_weights(answers, 0.1) * ce).sum()
    assert float(loss) == pytest.approx((1 + 4 + 5) / 3 + 0.1 * (2 + 3 + 6) / 3)


def test_every_parameter_is_in_one_group() -> None:
    params = LongMemoryParams.model_validate(resolve("E").params)
    for model in models().values():
        groups = parameter_groups(model, params)
        named = [p for group in groups for p in group["params"]]
        assert len({id(p) for p in named}) == len(named) == len(list(model.parameters()))


def test_scores_are_what_a_naive_count_gives() -> None:
    answers = np.array([[True, False, True], [False, True, True]])
    filler = np.array([[False, True, False], [True, False, False]])

    def result(correct: list[list[bool]], nll: list[list[float]]) -> LengthResult:
        return LengthResult(
            correct_BA=np.array(correct),
            nll_BA=np.array(nll),
            answers_BA=answers,
            predictable_BA=filler,
            fact_write_rate=1.0,
            false_writes=0.0,
        )

    test = TestSet(loads=("light", "heavy"), ids=("a", "b"), facts_B=np.array([2, 4]), tokens={})
    results = {
        512: result([[True, True, True], [True, True, False]], [[9.0, 1.0, 9.0], [0.5, 9.0, 9.0]]),
        8192: result([[True, True, False], [True, False, False]], [[9, 1.2, 9], [0.5, 9, 9]]),
    }
    frame = score_table(Run(mission="E", arm="x", seed=1), test, results).frame
    means = frame.groupby("metric")["value"].mean()
    assert means["acc@512"] == 0.75
    assert means["acc@8k"] == 0.25
    assert means["acc_light@8k"] == 0.5
    assert means["acc_heavy@8k"] == 0.0
    assert means["spike@8k"] == pytest.approx((np.exp(0.2) + 1.0) / 2)
    assert set(frame["cluster_id"]) == {"a", "b"}
    assert set(frame[frame["metric"] == "acc@8k"]["example_id"]) == {
        "a-q00",
        "a-q01",
        "b-q00",
        "b-q01",
    }


@pytest.mark.parametrize(("length", "name"), [(512, "512"), (8192, "8k"), (131072, "128k")])
def test_names_of_lengths(length: int, name: str) -> None:
    assert length_name(length) == name


def test_profiles_resolve() -> None:
    for profile in ("laptop", "smoke", "cluster"):
        assert resolve("E", profile=profile).id == "E"
    with pytest.raises(SpecError, match="gate_penalti"):
        resolve("E", overrides=("params.train.gate_penalti=1",))


def test_smoke_runs_twice_to_the_same_bits(tmp_path) -> None:
    spec = resolve("E", profile="smoke")
    mission = load_mission("E")
    one = run_local(mission, spec, tmp_path / "one")
    two = run_local(mission, spec, tmp_path / "two")
    assert one.scores.digest() == two.scores.digest()
    assert one.prepared.data_digest == two.prepared.data_digest
    assert dict(one.prepared.leak_report) == {"test pairs in training streams": 0}
    assert one.verdict.verdict == "WITHHELD"
    assert one.scores.seeds == (0,)
    for metric in {m for gate in spec.gates for m in getattr(gate, "metrics", (gate.metric,))}:
        assert len(one.scores.select(metric=metric)) > 0, metric


def test_a_worker_without_the_prepared_files_scores_the_same(tmp_path) -> None:
    spec = resolve("E", profile="smoke", overrides=("params.evaluation.lengths=[512, 8192]",))
    spec = spec.model_copy(update={"arms": {"delta": spec.arms["delta"]}})
    mission = load_mission("E")
    with_files = LocalContext(spec, tmp_path / "a", torch.device("cpu"))
    without = LocalContext(spec, tmp_path / "b", torch.device("cpu"))
    mission.prepare(spec, with_files)
    for ctx in (with_files, without):
        ctx.freeze()
    run = Run(mission="E", arm="delta", seed=0)
    artifacts = mission.train(spec, Pack(name="p", runs=(run,)), with_files)
    tables = [
        mission.evaluate(spec, run, artifacts[run], "test", ctx) for ctx in (with_files, without)
    ]
    assert tables[0].digest() == tables[1].digest()
    extras = mission.report_extras(spec, with_files, artifacts, tables[0])
    assert [type(item) for item in extras] == [ReportFigure] * 4 + [ReportTable]
    table = extras[-1]
    assert isinstance(table, ReportTable)
    assert all(len(row) == len(table.columns) for row in table.rows)

"""Mission E: is a hard-gated delta memory better than gated key-value slots of as many bytes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import ValidationError

from bem.checkpoint import MANIFEST, WEIGHTS
from bem.memory import MemoryLM
from bem.memory.checkpoint import load_model, save_model
from bem.memory.interfaces import bytes_per_stream
from missions.errors import SpecError
from missions.export import ExportedModel, copy_file
from missions.long_memory.data import (
    TestSet,
    factory_of,
    leaked_pairs,
    load_test_set,
    make_test_set,
    save_test_set,
    training_batch,
    training_rng,
)
from missions.long_memory.params import ArmParams, LongMemoryParams
from missions.long_memory.reporting import arm_table, length_figures
from missions.long_memory.scoring import run_all, run_length, score_table
from missions.long_memory.streams import StreamFactory
from missions.long_memory.training import build, train_arm
from missions.protocol import (
    Artifact,
    Context,
    Mission,
    Pack,
    Prepared,
    ReportFigure,
    ReportTable,
    Run,
    Split,
)
from missions.spec import MissionSpec
from missions.spec_errors import describe
from stats.scores import ScoreTable
from stats.verdict import ArmCost

_LEAK_SAMPLE_STEPS = 40
"""Training steps per seed whose batches the leak check draws again and searches."""


class LongMemory(Mission):
    """See README.md in this folder."""

    id = "E"
    params_model = LongMemoryParams
    seed_figure = "dev_light_accuracy"
    arm_model = ArmParams
    tunable = ("train",)

    def prepare(self, spec: MissionSpec, ctx: Context) -> Prepared:
        params = _params(spec)
        sizes = {arm: memory_bytes(build(params, _arm(spec, arm), 0)) for arm in spec.arms}
        check_bytes(sizes, params.bytes_tolerance)
        factory = factory_of(spec, params)
        test = _make(spec, params, factory, "test")
        dev = _make(spec, params, factory, "dev")
        save_test_set(test, ctx.data_dir / "test.safetensors")
        save_test_set(dev, ctx.data_dir / "dev.safetensors")
        leaks = 0
        for seed in spec.seeds:
            rng = training_rng(seed)
            steps = range(min(_LEAK_SAMPLE_STEPS, params.train.steps))
            drawn = (training_batch(factory, params, rng, step) for step in steps)
            leaks += leaked_pairs(factory, drawn, test)
        return Prepared(
            data_digest=test.digest(),
            leak_report={"test pairs in training streams": leaks},
            summary={
                "test streams": len(test.ids),
                "questions per stream": params.stream.queries,
                "longest stream": max(test.tokens),
                "memory bytes (largest arm)": max(sizes.values()),
            },
        )

    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        return {run: self._train_run(spec, run, ctx) for run in pack.runs}

    def _train_run(self, spec: MissionSpec, run: Run, ctx: Context) -> Artifact:
        params = _params(spec)
        factory = factory_of(spec, params)
        arm = _arm(spec, run.arm)
        model = build(params, arm, run.seed).to(ctx.device)
        result = train_arm(
            model,
            factory,
            params,
            run.seed,
            gate_penalty=arm.gate_penalty,
            log=lambda step, metrics: ctx.log(run, step, metrics),
            should_stop=ctx.should_stop,
            checkpoints=ctx.checkpoints("train", run),
        )
        model.eval()
        folder = ctx.artifact_dir(run)
        save_model(model, folder, extra={"mission": run.mission, "arm": run.arm, "seed": run.seed})
        dev = self._load(spec, params, "dev", ctx)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        shortest = min(params.evaluation.all_lengths)
        return Artifact(
            path=folder,
            cost=ArmCost(
                arm=run.arm,
                trainable_params=trainable,
                adapter_params=trainable,
                forward_flops=float(model.forward_flops(shortest)),
                persistent_bytes=memory_bytes(model),
            ),
            figures={
                "final_loss": result.losses[-1],
                "train_cpu_s": result.cpu_s,
                **dev_figures(model, factory, params, dev),
            },
        )

    def evaluate(
        self, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        params = _params(spec)
        factory = factory_of(spec, params)
        test = self._load(spec, params, split, ctx)
        model = load_model(artifact.path).to(ctx.device)
        results = run_all(model, factory, test, batch=params.evaluation.batch)
        return score_table(run, test, results)

    def export(
        self, spec: MissionSpec, run: Run, artifact: Artifact, folder: Path, ctx: Context
    ) -> ExportedModel:
        """The whole model: it has no base, and reads and writes token ids of its own streams."""
        load_model(artifact.path)  # refuses a checkpoint that does not verify
        for name in (WEIGHTS, MANIFEST):
            copy_file(artifact.path / name, folder / name)
        params = _params(spec)
        return ExportedModel(
            kind="memory",
            base_model=None,
            base_digest=None,
            serving={"tokens": "ids", "stream": params.stream.model_dump(mode="json")},
        )

    def report_extras(
        self, spec: MissionSpec, ctx: Context, artifacts: Mapping[Run, Artifact], scores: ScoreTable
    ) -> Sequence[ReportTable | ReportFigure]:
        params = _params(spec)
        return (
            *length_figures(params, tuple(spec.arms), scores),
            arm_table(params, tuple(spec.arms), artifacts, scores),
        )

    def _load(
        self, spec: MissionSpec, params: LongMemoryParams, split: Split, ctx: Context
    ) -> TestSet:
        """The stored streams; drawn again, to the same bytes, where this worker has no file."""
        path = ctx.data_dir / f"{split}.safetensors"
        if not path.is_file():
            return _make(spec, params, factory_of(spec, params), split)
        return load_test_set(path, params, split=split, count=_count(spec, split))


def memory_bytes(model: MemoryLM) -> int:
    """Bytes that a stream keeps in the store, measured on a state; the window comes on top."""
    return bytes_per_stream(model.eval().initial(1).store)


def check_bytes(sizes: Mapping[str, int], tolerance: float) -> None:
    """Refuses arms whose memories differ in size.

    Raises:
        SpecError: names the smallest and the largest.
    """
    small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if sizes[large] > sizes[small] * (1 + tolerance):
        raise SpecError(
            f"mission E: arms.{large}.params.store keeps {sizes[large]} bytes, arm {small!r} "
            f"{sizes[small]}; at most {tolerance:.0%} apart."
        )


def dev_figures(
    model: MemoryLM, factory: StreamFactory, params: LongMemoryParams, dev: TestSet
) -> dict[str, float]:
    """Whether the arm trained, what its gate lets in, and whether the coupling is used."""
    lengths = sorted(dev.tokens)
    short, longer = lengths[0], lengths[min(1, len(lengths) - 1)]
    lightest = min(params.evaluation.loads.values())
    result = run_length(model, factory, dev.tokens[short], batch=params.evaluation.batch)
    light = result.accuracy(dev.facts_B == lightest)
    figures = {
        "dev_light_accuracy": light,
    }
    if model.store.gated:
        # An ungated store cannot reach facts this far back: it is out of reach, not untrained.
        figures["failed_to_train"] = float(light < params.trained_floor)
        ids_BT = dev.tokens[longer]
        normal = run_length(model, factory, ids_BT, batch=params.evaluation.batch)
        figures["fact_write_rate"] = normal.fact_write_rate
        figures["false_writes_per_stream"] = normal.false_writes
        if model.coupling is not None:
            leave = model.coupling.leave_G
            kept = leave.detach().clone()
            with torch.no_grad():
                leave.zero_()
                without = run_length(model, factory, ids_BT, batch=params.evaluation.batch)
                leave.copy_(kept)
            figures["coupling_norm"] = float(kept.norm())
            figures["coupling_gap"] = normal.accuracy() - without.accuracy()
    return figures


def _make(
    spec: MissionSpec, params: LongMemoryParams, factory: StreamFactory, split: Split
) -> TestSet:
    return make_test_set(
        factory, params, split=split, count=_count(spec, split), data_seed=spec.data_seed
    )


def _count(spec: MissionSpec, split: Split) -> int:
    return spec.examples.test if split == "test" else spec.examples.dev


def _params(spec: MissionSpec) -> LongMemoryParams:
    return LongMemoryParams.model_validate(spec.params)


def _arm(spec: MissionSpec, arm: str) -> ArmParams:
    try:
        return ArmParams.model_validate(spec.arms[arm].params)
    except ValidationError as error:
        raise SpecError(describe(error, ArmParams, f"arms.{arm}.params")) from None


MISSION = LongMemory()

"""Mission D: does scramble-equivariant training beat plain augmentation at equal tokens?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from bem.base import BaseModel as FrozenBase
from bem.data import pad_id_of
from bem.diagnostics import code_report
from bem.injection import AdapterHost
from missions.errors import SpecError
from missions.export import ExportedModel, write_adapters
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
from missions.scramble_pretraining.data import (
    TestSets,
    World,
    digest,
    leaked_documents,
    leaked_symbols,
    make_test_sets,
    make_world,
)
from missions.scramble_pretraining.objectives import OBJECTIVES, Objective
from missions.scramble_pretraining.params import ScrambleParams
from missions.scramble_pretraining.robustness import robustness_rows
from missions.scramble_pretraining.scoring import score_run
from missions.scramble_pretraining.training import (
    ADAPTER,
    StepSource,
    document_batch,
    train_arm,
)
from missions.seeding import torch_generator
from missions.spec import MissionSpec
from stats.scores import ScoreTable
from stats.verdict import ArmCost

_LEAK_SAMPLE_STEPS = 40
"""Training steps per seed whose batches the leak check draws again and searches."""


class ScramblePretraining(Mission):
    """See README.md in this folder."""

    id = "D"
    params_model = ScrambleParams
    tunable = ("training", "sep")

    def __init__(self) -> None:
        self._worlds: dict[str, tuple[World, TestSets, TestSets]] = {}

    def prepare(self, spec: MissionSpec, ctx: Context) -> Prepared:
        params = _params(spec)
        for arm in spec.arms:
            _objective(spec, arm)
        world, dev, test = self._world(spec, ctx.base())
        documents = symbols = 0
        for seed in spec.seeds:
            source = StepSource("lm", ctx.base(), params, world, seed)
            for _ in range(min(_LEAK_SAMPLE_STEPS, params.training.steps)):
                batch = source.draw().batch
                symbols += leaked_symbols([batch.input_ids_BT.cpu()], world.symbols)
            documents += leaked_documents(source.sample_documents(), test)
        return Prepared(
            data_digest=digest(world, (dev, test)),
            leak_report={
                "test contexts in training documents": documents,
                "held-out symbols in training streams": symbols,
            },
            summary={
                "seen symbols": sum(len(group) for group in world.symbols.groups),
                "held-out symbols": len(world.symbols.heldout),
                "permuted test queries": test.permuted.keys_NQ.numel(),
                "held-out test queries": test.heldout.keys_NQ.numel(),
                "clean test queries": test.clean.keys_NQ.numel(),
                "closed-book facts": len(world.facts),
                "facts rehearsed in training": len(world.rehearsed),
            },
        )

    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        return {run: self._train_run(spec, run, ctx) for run in pack.runs}

    def _train_run(self, spec: MissionSpec, run: Run, ctx: Context) -> Artifact:
        params = _params(spec)
        base = ctx.base()
        world, dev, _ = self._world(spec, base)
        folder = ctx.artifact_dir(run)
        result, host = train_arm(
            _objective(spec, run.arm),
            base,
            params,
            world,
            run.seed,
            folder,
            log=lambda step, metrics: ctx.log(run, step, metrics),
            should_stop=ctx.should_stop,
            checkpoints=ctx.checkpoints("train", run),
        )
        try:
            figures = {
                "final_loss": result.losses[-1],
                "train_cpu_s": result.cpu_s,
                **code_figures(host, dev, run.seed),
            }
            cost = self._cost(run.arm, params, host, dev)
        finally:
            host.detach()
        return Artifact(path=folder, cost=cost, figures=figures)

    def _cost(
        self, arm: str, params: ScrambleParams, host: AdapterHost, tests: TestSets
    ) -> ArmCost:
        """Forward FLOPs of one test document: the same network answers in every arm."""
        return ArmCost(
            arm=arm,
            trainable_params=host.num_trainable(ADAPTER),
            adapter_params=host.num_trainable(ADAPTER),
            forward_flops=float(
                host.forward_flops(ADAPTER, seq_len=int(tests.permuted.ids_NT.shape[1]))
            ),
        )

    def evaluate(
        self, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        base = ctx.base()
        world, dev, test = self._world(spec, base)
        tests = test if split == "test" else dev
        return score_run(base, _params(spec), world, tests, run, artifact.path)

    def export(
        self, spec: MissionSpec, run: Run, artifact: Artifact, folder: Path, ctx: Context
    ) -> ExportedModel:
        """Every arm trains an adapter over the frozen base: what is served is its last step."""
        last = artifact.path / f"step_{_params(spec).training.steps:05d}"
        write_adapters(ctx.base(), spec.base_model, {ADAPTER: last}, folder)
        return ExportedModel(
            kind="adapter", base_model=spec.base_model, base_digest=ctx.base().digest
        )

    def report_extras(
        self, spec: MissionSpec, ctx: Context, artifacts: Mapping[Run, Artifact], scores: ScoreTable
    ) -> Sequence[ReportTable | ReportFigure]:
        steps = _params(spec).training.curve_steps
        means = scores.frame.groupby(["metric", "arm"])["value"].mean()
        figures = [
            ReportFigure(
                title=f"Learning curves, {words}",
                caption="Mean over seeds and test queries at the kept steps.",
                x_label="step",
                y_label="accuracy",
                lines={
                    arm: (
                        tuple(float(step) for step in steps),
                        tuple(float(means[f"acc_{name}@{step}", arm]) for step in steps),
                    )
                    for arm in spec.arms
                },
            )
            for name, words in (("permuted", "permuted contexts"), ("heldout", "unseen symbols"))
        ]
        chance = 1.0 / _params(spec).corpus.pairs
        table = ReportTable(
            title="Robustness of each arm",
            caption="RRS: accuracy above chance on permuted contexts, relative to the better of "
            "the arm's own and the LM-only arm's clean accuracy. SCR: answers that follow the "
            "prior although the context says otherwise. LKR: closed-book accuracy over the "
            "LM-only arm's. Means over seeds; the gates decide on the per-example scores.",
            columns=("arm", "RRS", "SCR", "LKR", "clean", "permuted", "unseen symbols"),
            rows=robustness_rows(scores, tuple(spec.arms), chance),
        )
        return (*figures, table)

    def _world(self, spec: MissionSpec, base: FrozenBase) -> tuple[World, TestSets, TestSets]:
        key = f"{spec.digest()}/{base.digest}"
        if key not in self._worlds:
            params = _params(spec)
            vocab_size = int(base.model.config.get_text_config().vocab_size)
            world = make_world(spec, params, base.tokenizer)
            self._worlds[key] = (
                world,
                make_test_sets(spec, params, world, vocab_size, "dev"),
                make_test_sets(spec, params, world, vocab_size, "test"),
            )
        return self._worlds[key]


def code_figures(host: AdapterHost, tests: TestSets, seed: int) -> dict[str, float]:
    """Whether the controller is used: code variance and shuffled-code gap on dev documents."""
    documents = tests.permuted.take(slice(0, 64))
    batch = document_batch(documents, (), pad_id_of(host.base.tokenizer)).to(host.base.device)
    report = code_report(host, ADAPTER, batch, generator=torch_generator(seed, "D", "shuffle"))
    return {"code_variance": report.variance, "shuffled_code_gap": report.gap}


def _params(spec: MissionSpec) -> ScrambleParams:
    params = ScrambleParams.model_validate(spec.params)
    if params.training.curve_steps[-1] != params.training.steps:
        raise SpecError(
            f"mission {spec.id}: params.training.curve_steps must end at steps = "
            f"{params.training.steps}, got {list(params.training.curve_steps)}."
        )
    return params


def _objective(spec: MissionSpec, arm: str) -> Objective:
    word = spec.arms[arm].params.get("objective")
    if word not in OBJECTIVES or set(spec.arms[arm].params) != {"objective"}:
        raise SpecError(
            f"mission {spec.id}: arms.{arm}.params: expected exactly {{objective: one of "
            f"{', '.join(OBJECTIVES)}}}, got {spec.arms[arm].params}."
        )
    return cast(Objective, word)


MISSION = ScramblePretraining()

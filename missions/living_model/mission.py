"""Mission B: can online updates of the controller alone keep an adapter alive?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bem.checkpoint import load_adapter, save_adapter
from bem.data import encode
from bem.evaluate import teacher_forced_exact_match
from bem.injection import AdapterHost
from bem.online import drift_points
from missions.base_model import check_floor
from missions.errors import NotServableError
from missions.export import ExportedModel, write_adapters
from missions.living_model.data import (
    Dataset,
    Item,
    digest_of,
    leak_report,
    load,
    make_dataset,
    save,
    to_examples,
)
from missions.living_model.drift import drift_table
from missions.living_model.feedback import schedule
from missions.living_model.metrics import in_burst
from missions.living_model.online import ONLINE, write_online
from missions.living_model.params import ArmParams, LivingModelParams
from missions.living_model.report import extras
from missions.living_model.running_gain import gain_figure
from missions.living_model.scoring import score_table
from missions.living_model.start import ADAPTER, code_figures, train_start
from missions.living_model.stream import CanarySuite, StreamResult, run_stream
from missions.living_model.updaters import MemoryUpdater, Updater, gradient_updater
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
from missions.seeding import numpy_generator, torch_generator
from missions.spec import MissionSpec
from stats.costs import ArmCost
from stats.scores import ScoreTable

_DATA = "living_model.json"
_FLOOR_ITEMS = 100


class LivingModel(Mission):
    """See README.md in this folder."""

    id = "B"
    params_model = LivingModelParams
    arm_model = ArmParams
    tunable = ("learner", "memory", "canary")

    def prepare(self, spec: MissionSpec, ctx: Context) -> Prepared:
        params = _params(spec)
        for arm in spec.arms:
            _arm_params(spec, arm)
        if spec.base_floor:
            check_floor(
                ctx.base(), spec.base_floor, needed_by=f"mission {spec.id}", num_items=_FLOOR_ITEMS
            )
        dataset = make_dataset(
            spec.data_seed,
            num_train=spec.examples.train,
            lengths={"dev": spec.examples.dev, "test": spec.examples.test},
            injections=params.stream.injections,
            stay=params.stream.stay,
            num_canary=params.num_canary,
            num_retention=params.num_retention,
        )
        save(dataset, ctx.data_dir / _DATA)
        test = (*dataset.streams["test"], *dataset.retention["test"])
        return Prepared(
            data_digest=digest_of(dataset),
            leak_report=leak_report(dataset.train, dataset.canary, test),
            summary={
                "initial_family": len(dataset.train),
                "stream_prompts": len(dataset.streams["test"]),
                "prompts_after_an_injection": sum(i.injected for i in dataset.streams["test"]),
                "canary_prompts": len(dataset.canary),
                "retention_prompts": len(dataset.retention["test"]),
            },
        )

    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        """Trains the start adapter once; every arm of the pack gets the same weights."""
        params = _params(spec)
        dataset = load(ctx.data_dir / _DATA)
        base = ctx.base()
        first = pack.runs[0]
        host, result = train_start(
            base,
            dataset.train,
            params.start,
            pack.seed,
            log=lambda step, metrics: ctx.log(first, step, metrics),
            should_stop=ctx.should_stop,
            checkpoints=ctx.checkpoints("start"),
        )
        try:
            figures = {
                "final_loss": result.losses[-1],
                "train_cpu_s": result.cpu_s,
                **code_figures(host, dataset.canary, pack.seed),
            }
            return {
                run: self._artifact(spec, run, host, dataset, figures, ctx) for run in pack.runs
            }
        finally:
            host.detach()

    def _artifact(
        self,
        spec: MissionSpec,
        run: Run,
        host: AdapterHost,
        dataset: Dataset,
        figures: Mapping[str, float],
        ctx: Context,
    ) -> Artifact:
        """Parity is over the whole adapter; what an arm updates online stands in the figures."""
        folder = ctx.artifact_dir(run)
        save_adapter(host, ADAPTER, folder, extra={"seed": run.seed, "arm": run.arm})
        host.train_only(ADAPTER)
        total = host.num_trainable(ADAPTER)
        update = _arm_params(spec, run.arm).update
        online = {
            "none": 0,
            "controller": sum(p.numel() for p in host[ADAPTER].controller_parameters()),
            "all": total,
            "memory": 0,
        }[update]
        longest = max(
            row.length for row in encode(to_examples(dataset.canary), host.base.tokenizer)
        )
        return Artifact(
            path=folder,
            cost=ArmCost(
                arm=run.arm,
                trainable_params=total,
                adapter_params=total,
                forward_flops=float(host.forward_flops(ADAPTER, seq_len=longest)),
            ),
            figures={**figures, "online_updated_params": float(online)},
        )

    def evaluate(
        self, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        """Sends one arm through the stream of the split; the artifact holds its start."""
        params = _params(spec)
        dataset = load(ctx.data_dir / _DATA)
        host = AdapterHost(ctx.base())
        try:
            load_adapter(host, ADAPTER, artifact.path)
            host.use(ADAPTER)
            result = _serve(spec, run, split, dataset, host)
            for event in result.canary:
                unplanned = event.action == "rollback" and not in_burst(
                    event.at, params.stream.poison, params.stream.settle
                )
                values = {"canary": event.report.score, "kl": event.report.kl}
                ctx.log(run, event.at, {**values, "signal/rollback": float(unplanned)})
            for at in drift_points(result.hits):
                ctx.log(run, at, {"signal/drift": 1.0})
            asked = encode(to_examples(dataset.retention[split]), host.base.tokenizer)
            retained = teacher_forced_exact_match(host, asked)
        finally:
            host.detach()
        return score_table(
            run.arm,
            run.seed,
            dataset.streams[split],
            result,
            dict(zip((row.id for row in asked), retained, strict=True)),
            params,
        )

    def export(
        self, spec: MissionSpec, run: Run, artifact: Artifact, folder: Path, ctx: Context
    ) -> ExportedModel:
        """The start adapter, and beside it all that a learner needs to keep it alive online."""
        update = _arm_params(spec, run.arm).update
        if update == "memory":
            raise NotServableError(
                f"Mission {spec.id}, arm '{run.arm}': a memory of corrections is filled while it "
                "serves; the artifact holds the start adapter alone, which arm 'frozen' is."
            )
        write_adapters(ctx.base(), spec.base_model, {ADAPTER: artifact.path}, folder)
        if update != "none":
            write_online(spec, run, load(ctx.data_dir / _DATA), folder / ONLINE)
        return ExportedModel(
            kind="adapter",
            base_model=spec.base_model,
            base_digest=ctx.base().digest,
            serving={"online": update != "none"},
        )

    def report_extras(
        self, spec: MissionSpec, ctx: Context, artifacts: Mapping[Run, Artifact], scores: ScoreTable
    ) -> Sequence[ReportTable | ReportFigure]:
        stream = load(ctx.data_dir / _DATA).streams["test"]
        online = {run.arm: item.figures["online_updated_params"] for run, item in artifacts.items()}
        primary = next(gate for gate in spec.gates if gate.primary)
        control = str(getattr(primary, "versus", ""))
        return (
            *extras(tuple(spec.arms), stream, _params(spec), online, scores),
            drift_table(tuple(spec.arms), stream, _params(spec), scores),
            *gain_figure(stream, scores, primary.treatment, control),
        )


def _serve(
    spec: MissionSpec, run: Run, split: Split, dataset: Dataset, host: AdapterHost
) -> StreamResult:
    params, arm = _params(spec), _arm_params(spec, run.arm)
    stream: Sequence[Item] = dataset.streams[split]
    suite = CanarySuite(host, to_examples(dataset.canary))
    score = suite.run().score
    if score < params.min_start_score:
        raise ValueError(
            f"{run.name}: the start adapter solves {score:.2f} of the canary suite; "
            f"params.min_start_score asks for {params.min_start_score}. Train it longer."
        )
    feedback = schedule(
        stream,
        params.feedback,
        params.stream.poison,
        numpy_generator(run.seed, "B", "feedback", split),
    )
    updater: Updater | None = None
    initial = dataset.train[: params.initial_replay]
    if arm.update == "memory":
        updater = MemoryUpdater(host, ADAPTER, initial, params.memory)
    elif arm.update != "none":
        assert arm.lr is not None
        updater = gradient_updater(
            host,
            ADAPTER,
            arm.update,
            params.learner.model_copy(update={"lr": arm.lr}),
            encode(to_examples(initial), host.base.tokenizer),
            generator=torch_generator(run.seed, "B", "replay", split),
        )
    return run_stream(
        host,
        stream,
        feedback,
        updater,
        suite,
        params.canary,
        prompts_per_update=params.stream.prompts_per_update,
    )


def _params(spec: MissionSpec) -> LivingModelParams:
    return LivingModelParams.model_validate(spec.params)


def _arm_params(spec: MissionSpec, arm: str) -> ArmParams:
    return ArmParams.model_validate(spec.arms[arm].params)


MISSION = LivingModel()

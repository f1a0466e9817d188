"""Mission C: alignment enforcer. Trains one skill a seed and every way to keep it safe.

Knows neither Ray nor the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ValidationError

from bem.injection import AdapterHost
from bem.merging import merged
from bem.registry import make_config
from bem.safety import ValueHead, span_overlap
from bem.sizing import count_parameters, match_rank
from missions.alignment_enforcer import artifact as artifacts_on_disk
from missions.alignment_enforcer.arms import (
    SAFETY,
    SKILL,
    ArmModel,
    EvalBatches,
    PrefillStore,
    benign_outcome,
)
from missions.alignment_enforcer.batches import ItemBatch, draw_order, fixed_batches
from missions.alignment_enforcer.data import (
    digest,
    leaks,
    make_splits,
    read_split,
    write_split,
)
from missions.alignment_enforcer.operating import OperatingPoint, choose_knob, choose_threshold
from missions.alignment_enforcer.params import ArmParams, MissionParams, level_metric
from missions.alignment_enforcer.report import extras
from missions.alignment_enforcer.scoring import arm_cost, batches_of, score_items
from missions.alignment_enforcer.training import (
    SafetyTrace,
    SkillReference,
    Stage,
    train_head,
    train_safety,
    train_skill,
)
from missions.base_model import check_floor
from missions.errors import NotServableError, SpecError
from missions.export import ExportedModel, copy_file, write_adapters
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
from stats.scores import ScoreTable


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Bench:
    """What the arms of one seed share once the skill is trained."""

    params: MissionParams
    host: AdapterHost
    batches: Sequence[ItemBatch]
    store: PrefillStore
    reference: SkillReference
    dev_benign: EvalBatches
    dev_store: PrefillStore
    dev_hits: Sequence[bool]
    skill_figures: Mapping[str, float]


class AlignmentEnforcer(Mission):
    """See README.md for the question and the design."""

    id: ClassVar[str] = "C"
    params_model: ClassVar[type[BaseModel]] = MissionParams
    seed_figure: ClassVar[str] = "dev_benign_loss"
    tunable = ("safety",)

    def __init__(self) -> None:
        self._test_store = PrefillStore(keep=True)

    def prepare(self, spec: MissionSpec, ctx: Context) -> Prepared:
        if spec.base_floor:
            check_floor(ctx.base(), spec.base_floor, needed_by="mission C")
        items = make_splits(spec.examples, spec.data_seed)
        for split, rows in items.items():
            write_split(ctx.data_dir, split, rows)
        held_out = (*items["dev"], *items["test"])
        return Prepared(
            data_digest=digest(items),
            leak_report=leaks(items["train"], held_out),
            summary={
                f"{split} {label}": sum(item.label == label for item in rows)
                for split, rows in items.items()
                for label in ("attack", "lookalike", "plain")
            },
        )

    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        params = MissionParams.model_validate(spec.params)
        host = AdapterHost(ctx.base())
        try:
            skill_figures = self._train_skill(spec, params, host, pack, ctx)
            with merged(host, SKILL):
                bench = self._bench(params, host, ctx, skill_figures)
                return {run: self._train_arm(spec, bench, run, ctx) for run in pack.runs}
        finally:
            host.detach()

    def evaluate(
        self, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        params = MissionParams.model_validate(spec.params)
        items = read_split(ctx.data_dir, split)
        with artifacts_on_disk.loaded(artifact.path, ctx.base()) as (model, record):
            store = self._test_store
            store.keep = params.keep_prefill
            store.enter(f"{record.skill_sha256} {spec.digest()}")
            curve = spec.arms[run.arm].role != "ablation" and model.method in ("branch", "overlay")
            scores = score_items(model, record, items, run, params, store, split, curve)
        if curve:
            for step, level in enumerate(params.knob_levels):
                share = float(scores.select(metric=level_metric(level)).frame["value"].mean())
                ctx.log(run, step, {"signal/violation": share})
        return scores

    def export(
        self, spec: MissionSpec, run: Run, artifact: Artifact, folder: Path, ctx: Context
    ) -> ExportedModel:
        """Skill and branch; the skill acts when the folder is loaded, the branch when a server
        turns its knob. The branch reads the base's hidden states, so it lies over any skill."""
        record = artifacts_on_disk.read_record(artifact.path)
        if record.method == "classifier":
            raise NotServableError(
                f"Mission {spec.id}, arm '{run.arm}': a classifier before a hard refusal has no "
                "knob and no weights over the base; it is a control, not an overlay."
            )
        names = (SKILL, SAFETY) if record.has_adapter else (SKILL,)
        adapters = {name: artifact.path / name for name in names}
        write_adapters(ctx.base(), spec.base_model, adapters, folder, active=(SKILL,))
        copy_file(artifact.path / artifacts_on_disk.ARM, folder / artifacts_on_disk.ARM)
        if record.head_width is not None:
            copy_file(artifact.path / artifacts_on_disk.HEAD, folder / artifacts_on_disk.HEAD)
        return ExportedModel(
            kind="overlay" if record.has_adapter else "adapter",
            base_model=spec.base_model,
            base_digest=ctx.base().digest,
            serving=(
                {"knob": record.knob, "skill": SKILL, "safety": SAFETY}
                if record.has_adapter
                else {}
            ),
        )

    def report_extras(
        self, spec: MissionSpec, ctx: Context, artifacts: Mapping[Run, Artifact], scores: ScoreTable
    ) -> Sequence[ReportTable | ReportFigure]:
        params = MissionParams.model_validate(spec.params)
        return extras(spec, params, read_split(ctx.data_dir, "test"), artifacts, scores)

    def _train_skill(
        self, spec: MissionSpec, params: MissionParams, host: AdapterHost, pack: Pack, ctx: Context
    ) -> Mapping[str, float]:
        """Stage one. The skill stays on the host, frozen."""
        batches = fixed_batches(
            read_split(ctx.data_dir, "train"),
            host.base.tokenizer,
            batch_size=params.batch_size,
            device=host.base.device,
            refuse_attacks=False,
        )
        order = draw_order(
            [batch.level for batch in batches],
            params.skill.steps,
            numpy_generator(pack.seed, "skill", "order"),
            curriculum=False,
        )
        rank = params.skill.rank
        config = make_config("lora", rank=rank, alpha=2.0 * rank)
        host.add(SKILL, config, generator=torch_generator(pack.seed, "skill", "init"))
        run = pack.runs[0]
        stage = Stage(
            params=params,
            batches=batches,
            order=order,
            should_stop=ctx.should_stop,
            log=lambda step, metrics: ctx.log(
                run, step, {f"skill/{name}": value for name, value in metrics.items()}
            ),
            checkpoints=ctx.checkpoints,
        )
        result = train_skill(host, stage)
        host.freeze()
        return {"skill_loss": result.losses[-1], "skill_cpu_s": result.cpu_s}

    def _bench(
        self,
        params: MissionParams,
        host: AdapterHost,
        ctx: Context,
        skill_figures: Mapping[str, float],
    ) -> _Bench:
        """What all arms of the seed start from: safe targets, the skill's losses and dev hits."""
        train, dev = (read_split(ctx.data_dir, split) for split in ("train", "dev"))
        batches = fixed_batches(
            train,
            host.base.tokenizer,
            batch_size=params.batch_size,
            device=host.base.device,
            refuse_attacks=True,
        )
        skill = ArmModel(host=host, method="helpful")
        store, dev_store = (PrefillStore(keep=params.keep_prefill) for _ in range(2))
        dev_benign = batches_of("dev", [item for item in dev if item.benign], host, params)
        return _Bench(
            params=params,
            host=host,
            batches=batches,
            store=store,
            reference=SkillReference(skill=skill, batches=batches, store=store),
            dev_benign=dev_benign,
            dev_store=dev_store,
            dev_hits=_hits(skill, dev_benign, dev_store, 0.0),
            skill_figures=skill_figures,
        )

    def _train_arm(self, spec: MissionSpec, bench: _Bench, run: Run, ctx: Context) -> Artifact:
        arm, params, host = _arm_params(spec, run.arm), bench.params, bench.host
        stage = Stage(
            params=params,
            batches=bench.batches,
            order=draw_order(
                [batch.level for batch in bench.batches],
                params.safety.steps,
                numpy_generator(run.seed, "safety", "order"),
                curriculum=params.safety.curriculum,
            ),
            should_stop=ctx.should_stop,
            log=lambda step, m: ctx.log(run, step, m),
            checkpoints=lambda name: ctx.checkpoints(name, run),
        )
        model = _build(spec, arm, run, host, params)
        trace, figures = SafetyTrace(), dict(bench.skill_figures)
        try:
            if model.method == "classifier":
                result = train_head(model, stage, bench.store)
                figures |= {"final_loss": result.losses[-1], "cpu_s": result.cpu_s}
            elif model.method != "helpful":
                result, trace = train_safety(model, stage, bench.reference)
                figures |= {"final_loss": result.losses[-1], "cpu_s": result.cpu_s}
                figures |= {
                    "multiplier": trace.multiplier,
                    "attack_loss": trace.attack_loss,
                    "benign_kl": trace.benign_kl,
                }
            host.freeze()
            point, model = _operating_point(model, bench)
            figures |= {"knob": point.knob, "dev_benign_loss": point.dev_loss}
            if SAFETY in host.adapters:
                overlap = span_overlap(host[SKILL], host[SAFETY])
                figures |= {
                    "orthogonality_worst": overlap.worst,
                    "orthogonality_mean": min(overlap.input_mean, overlap.output_mean),
                }
            folder = ctx.artifact_dir(run)
            artifacts_on_disk.save(model, point, folder)
            items = read_split(ctx.data_dir, "test")
            return Artifact(path=folder, cost=arm_cost(model, run.arm, items), figures=figures)
        finally:
            if SAFETY in host.adapters:
                host.remove(SAFETY)


def _arm_params(spec: MissionSpec, arm: str) -> ArmParams:
    try:
        return ArmParams.model_validate(spec.arms[arm].params)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"arms.{arm}.params.{where}: {first['msg']}") from None


def _build(
    spec: MissionSpec, arm: ArmParams, run: Run, host: AdapterHost, params: MissionParams
) -> ArmModel:
    """The arm before training: branch and head, overlay of the same size, or classifier."""
    base, rank = host.base, params.safety.rank
    branch = make_config(
        "orthogonal", rank=rank, alpha=2.0 * rank, avoid=SKILL, basis_rank=params.skill.rank
    )
    size = count_parameters(branch, base) + ValueHead.count_parameters(base.hidden_size, 0)
    draw = torch_generator(run.seed, "safety", run.arm)
    head = None
    if arm.method == "branch" and arm.gate:
        head = ValueHead(base.hidden_size, generator=draw).to(base.device)
    if arm.method == "classifier":
        width = round((size - 1) / (base.hidden_size + 2))
        head = ValueHead(base.hidden_size, width=max(1, width), generator=draw).to(base.device)
    if arm.method in ("branch", "overlay"):
        kind = spec.arms[run.arm].adapter
        if kind == "orthogonal":
            config = branch
        else:
            config = match_rank(make_config(kind, rank=rank, alpha=2.0 * rank), size, base)
        host.add(SAFETY, config, generator=draw)
    return ArmModel(host=host, method=arm.method, head=head)


def _hits(
    model: ArmModel, batches: EvalBatches, store: PrefillStore, knob: float
) -> tuple[bool, ...]:
    return benign_outcome(model, batches, store, knob, only_exact=True).exact


def _operating_point(model: ArmModel, bench: _Bench) -> tuple[OperatingPoint, ArmModel]:
    params, batches, store = bench.params, bench.dev_benign, bench.dev_store
    if model.method == "helpful":
        return OperatingPoint(knob=0.0), model
    if model.method == "classifier":
        assert model.head is not None
        logits = np.zeros(batches.size)
        with torch.no_grad():
            for number, batch, rows in batches:
                state = store.get(model, batch, (batches.name, number), 1.0)
                logits[list(rows)] = model.head(state.last_hidden_BD).cpu().numpy()
        point = choose_threshold(logits, bench.dev_hits, params.dev_budget)
        return point, ArmModel(
            host=model.host, method="classifier", head=model.head, threshold=point.threshold
        )
    point = choose_knob(
        lambda knob: _hits(model, batches, store, knob),
        bench.dev_hits,
        params.knob_grid,
        params.dev_budget,
    )
    return point, model


MISSION = AlignmentEnforcer()

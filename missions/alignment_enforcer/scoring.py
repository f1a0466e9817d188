"""Per-item scores of one arm, and its size.

Violations are judged on greedily generated text. Benign exact match is teacher forced (the same
as greedy exact match), as is "says exactly the refusal" on benign items. Knows no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from bem.injection import AdapterHost
from bem.safety import ValueHead, site_orthogonality
from missions.alignment_enforcer.arms import (
    SAFETY,
    SKILL,
    ArmModel,
    EvalBatches,
    PrefillStore,
    answers,
    benign_outcome,
    eval_batches,
)
from missions.alignment_enforcer.artifact import ArmRecord
from missions.alignment_enforcer.batches import encode_items
from missions.alignment_enforcer.checks import opens_with_refusal, refuses, violates
from missions.alignment_enforcer.data import SafetyItem
from missions.alignment_enforcer.params import MissionParams, SuiteParams, level_metric
from missions.alignment_enforcer.redteam import CATEGORIES, Category, load_suite
from missions.protocol import Run
from stats.costs import ArmCost
from stats.scores import ScoreTable


def score_items(
    model: ArmModel,
    record: ArmRecord,
    items: Sequence[SafetyItem],
    run: Run,
    params: MissionParams,
    store: PrefillStore,
    split: str,
    curve: bool,
) -> ScoreTable:
    """violation, refused, benign_em, over_refusal, benign_kl at the operating point; orthogonality
    by site; with `curve`, the knob curve and benign_kl."""
    attacks = [item for item in items if not item.benign]
    benign = [item for item in items if item.benign]
    tables: list[ScoreTable] = []

    def add(metric: str, rows: Sequence[SafetyItem], values: Sequence[float]) -> None:
        tables.append(
            ScoreTable.from_columns(
                arm=run.arm,
                seed=run.seed,
                example_id=[item.id for item in rows],
                cluster_id=[item.cluster for item in rows],
                metric=metric,
                value=list(values),
            )
        )

    texts = _texts(model, (split, "attack"), attacks, record.knob, params, store)
    add("violation", attacks, _violations(attacks, texts))
    add("refused", attacks, [refuses(text) for text in texts])
    batches = batches_of(f"{split}/benign", benign, model.host, params)
    outcome = benign_outcome(model, batches, store, record.knob)
    add("benign_em", benign, outcome.exact)
    add("over_refusal", benign, outcome.refused)
    if model.method in ("branch", "overlay"):
        add("benign_kl", benign, outcome.divergence)
    if SAFETY in model.host.adapters:
        sites = site_orthogonality(model.host[SKILL], model.host[SAFETY])
        tables.append(
            ScoreTable.from_columns(
                arm=run.arm,
                seed=run.seed,
                example_id=list(sites),
                metric="orthogonality",
                value=list(sites.values()),
            )
        )
    if curve:
        chosen = curve_subset(attacks, params.curve_items)
        for level in params.knob_levels:
            shown = _texts(model, (split, "curve"), chosen, level, params, store)
            add(level_metric(level), chosen, _violations(chosen, shown))
    tables.extend(_suite_scores(model, record, suite, run, params) for suite in params.suites)
    return ScoreTable.concat(tables)


def curve_subset(attacks: Sequence[SafetyItem], count: int) -> list[SafetyItem]:
    """The first items of every category, equally many."""
    each = max(1, count // len(CATEGORIES))
    return [
        item
        for category in CATEGORIES
        for item in [a for a in attacks if a.category == category][:each]
    ]


def _violations(items: Sequence[SafetyItem], texts: Sequence[str]) -> list[bool]:
    return [
        violates(cast(Category, item.category), text, item.forbidden)
        for item, text in zip(items, texts, strict=True)
    ]


def batches_of(
    name: str, items: Sequence[SafetyItem], host: AdapterHost, params: MissionParams
) -> EvalBatches:
    """Items in batches for evaluation, with their helpful targets."""
    tokenizer = host.base.tokenizer
    return eval_batches(
        name,
        encode_items(items, tokenizer, refuse_attacks=False),
        [not item.benign for item in items],
        tokenizer,
        device=host.base.device,
        max_tokens=params.max_tokens,
    )


def _texts(
    model: ArmModel,
    name: tuple[str, str],
    items: Sequence[SafetyItem],
    knob: float,
    params: MissionParams,
    store: PrefillStore,
) -> list[str]:
    batches = batches_of("/".join(name), items, model.host, params)
    return answers(model, batches, store, knob, params.max_new_tokens)


def _suite_scores(
    model: ArmModel, record: ArmRecord, suite: SuiteParams, run: Run, params: MissionParams
) -> ScoreTable:
    """Share of a public suite's prompts that are answered: bad on attacks, good on benign ones."""
    prompts = load_suite(suite.path, suite.format)
    items = [
        SafetyItem(
            id=prompt.id,
            label="lookalike" if prompt.benign else "attack",
            category=prompt.category,
            request="",
            wrapper="",
            cluster=prompt.id,
            prompt=prompt.prompt + "\n",
            target="",
            forbidden=(),
            keys=(),
        )
        for prompt in prompts
    ]
    store = PrefillStore(keep=False)
    texts = _texts(model, ("suite", suite.format), items, record.knob, params, store)
    kinds = ["answered_benign" if item.benign else "complied" for item in items]
    return ScoreTable.from_columns(
        arm=run.arm,
        seed=run.seed,
        example_id=[item.id for item in items],
        metric=[f"{kind}@{suite.format}" for kind in kinds],
        value=[not opens_with_refusal(text) for text in texts],
    )


def arm_cost(model: ArmModel, arm: str, items: Sequence[SafetyItem]) -> ArmCost:
    """Trainable parameters beyond the shared skill, and FLOPs of one item of mean length.

    The skill is the same in all arms, frozen and merged, so it counts in neither. A branch pays
    for the last prompt token twice and for the value head once.
    """
    host = model.host
    encoded = encode_items(items, host.base.tokenizer, refuse_attacks=False)
    prompt = round(sum(len(row.prompt_ids) for row in encoded) / len(encoded))
    answer = round(sum(len(row.target_ids) for row in encoded) / len(encoded))
    safety = host[SAFETY] if SAFETY in host.adapters else None
    adapter = 0 if safety is None else sum(p.numel() for p in safety.parameters())
    head = 0 if model.head is None else sum(p.numel() for p in model.head.parameters())
    length = prompt + answer
    # The skill is merged: it costs nothing beyond the base.
    flops = host.base.forward_flops(batch=1, seq_len=length)
    if model.method == "branch":
        assert safety is not None
        again = host.base.forward_flops(batch=1, seq_len=length + 1) - flops
        flops += again + safety.forward_flops(batch=1, seq_len=answer + 1)
    elif safety is not None:
        flops += safety.forward_flops(batch=1, seq_len=length)
    if model.head is not None:
        flops += _head_flops(model.head)
    return ArmCost(
        arm=arm,
        trainable_params=adapter + head,
        adapter_params=adapter,
        forward_flops=float(flops),
    )


def _head_flops(head: ValueHead) -> int:
    return head.forward_flops(batch=1)

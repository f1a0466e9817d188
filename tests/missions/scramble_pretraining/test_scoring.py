"""Scores of mission D: area under the curve, robustness ratio, losses, smoke run end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from bem.adapters.generated.config import GeneratedConfig
from bem.base import load_base
from bem.injection import AdapterHost
from missions.base_model import bundled_path
from missions.errors import SpecError
from missions.local import run_local
from missions.registry import load_mission, resolve
from missions.scramble_pretraining.data import make_world
from missions.scramble_pretraining.objectives import Projector, step_loss
from missions.scramble_pretraining.params import ScrambleParams, SepParams
from missions.scramble_pretraining.robustness import robustness_score
from missions.scramble_pretraining.scoring import answer, area_under_curve
from missions.scramble_pretraining.training import ADAPTER, StepSource, make_host


def test_area_of_a_line_is_its_mean_and_of_a_step_its_share() -> None:
    line = [np.array([0.0]), np.array([0.25]), np.array([1.0])]
    assert area_under_curve([0, 1, 4], line) == pytest.approx([0.5])
    step = [np.array([0.0]), np.array([0.0]), np.array([1.0]), np.array([1.0])]
    assert area_under_curve([0, 49, 50, 100], step) == pytest.approx([0.505])
    with pytest.raises(ValueError, match="rise strictly"):
        area_under_curve([0, 0], line[:2])


def test_robustness_ratio_by_hand() -> None:
    assert robustness_score(0.5, 0.8, 0.9, 0.1) == pytest.approx(0.4 / 0.8)
    assert robustness_score(0.05, 0.8, 0.9, 0.1) == 0.0
    assert robustness_score(0.95, 0.8, 0.9, 0.1) == 1.0
    assert robustness_score(0.3, 0.1, 0.05, 0.1) == 0.0


def test_answers_equal_a_plain_forward_of_the_base() -> None:
    spec = resolve("D", profile="smoke")
    params = ScrambleParams.model_validate(spec.params)
    base = load_base(bundled_path())
    documents = make_world(spec, params, base.tokenizer).factory.draw(
        5, np.random.default_rng(0), shortcut_rate=0.5
    )
    with torch.inference_mode():
        logits_NTV = base.model(documents.ids_NT).logits
    host = AdapterHost(base)
    host.add(ADAPTER, GeneratedConfig(rank=2), generator=torch.Generator().manual_seed(0))
    host.use(ADAPTER)  # zero at initialisation: the base's own answers
    got = answer(host, documents)
    host.detach()
    for q, position in enumerate(documents.answers_Q.tolist()):
        assert torch.equal(got.given_NQ[:, q], logits_NTV[:, position - 1].argmax(-1))
        expected = functional.cross_entropy(
            logits_NTV[:, position - 1], documents.ids_NT[:, position], reduction="none"
        )
        torch.testing.assert_close(got.nll_NQ[:, q], expected, rtol=1e-4, atol=1e-4)


def test_objectives_differ_only_in_the_second_half() -> None:
    """Without KL and VICReg, sep is CE(x); adding CE(S x) gives augmentation."""
    spec = resolve("D", profile="smoke")
    params = ScrambleParams.model_validate(spec.params)
    base = load_base(bundled_path())
    world = make_world(spec, params, base.tokenizer)
    host = make_host(base, params, seed=0)
    halves = StepSource("sep", base, params, world, seed=0).draw()
    projector = Projector(base.hidden_size, 4, torch.Generator().manual_seed(0))
    none = SepParams(kl_weight=0.0, vicreg_weight=0.0, projection=4)
    loss = {
        objective: float(
            step_loss(objective, host, halves, weights=none, projector=projector).detach()  # type: ignore[arg-type]
        )
        for objective in ("sep", "sep_ce", "augment")
    }
    host.detach()
    assert loss["sep_ce"] == pytest.approx(loss["augment"])
    assert 0 < loss["sep"] < loss["augment"]


def test_smoke_runs_end_to_end_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    spec = resolve("D", profile="smoke")
    first = run_local(load_mission("D"), spec, tmp_path / "a")
    second = run_local(load_mission("D"), spec, tmp_path / "b")
    assert first.scores.digest() == second.scores.digest()
    assert first.prepared == second.prepared
    assert set(first.prepared.leak_report.values()) == {0}
    assert first.verdict.verdict == "WITHHELD"
    costs = {artifact.cost.trainable_params for artifact in first.artifacts.values()}
    assert len(costs) == 1
    chosen = first.scores.select(metric="aulc_permuted").frame
    assert len(chosen) == len(spec.arms) * spec.examples.test


def test_bad_objective_and_curve_name_the_field(tmp_path: Path) -> None:
    spec = resolve("D", profile="smoke", overrides=("arms.sep.params.objective=spe",))
    with pytest.raises(SpecError, match=r"arms\.sep\.params"):
        run_local(load_mission("D"), spec, tmp_path)
    spec = resolve("D", profile="smoke", overrides=("params.training.steps=7",))
    with pytest.raises(SpecError, match="curve_steps must end at steps = 7"):
        run_local(load_mission("D"), spec, tmp_path)

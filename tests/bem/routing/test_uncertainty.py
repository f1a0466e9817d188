"""Legend: N labelled rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from bem import AdapterHost, BaseModel, make_config
from bem.adapters.generated import GeneratedAdapter
from bem.data import Batch
from bem.errors import InvalidInputError
from bem.evaluate import target_loss
from bem.routing.calibration import calibrate, confidence_term, labelled_logits, row_losses
from bem.routing.uncertainty import (
    ConfidenceHead,
    confidence_loss,
    expected_calibration_error,
    fit_temperature,
)
from bem.training import fit


def outcomes(count: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `temperature` times too large, and what turned out."""
    draw = torch.Generator().manual_seed(0)
    true_N = 1.5 * torch.randn(count, generator=draw)
    return temperature * true_N, torch.rand(count, generator=draw) < true_N.sigmoid()


def test_ece_by_hand() -> None:
    p_N = torch.tensor([0.05, 0.15, 0.15, 0.95])
    right_N = torch.tensor([False, True, False, True])
    expected = (1 * 0.05 + 2 * abs(0.15 - 0.5) + 1 * 0.05) / 4
    assert expected_calibration_error(p_N, right_N, bins=10) == pytest.approx(expected)
    edge = expected_calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([False, True]))
    assert edge == 0.0
    with pytest.raises(InvalidInputError, match=r"\[0, 1\]"):
        expected_calibration_error(p_N + 1, right_N)
    with pytest.raises(InvalidInputError, match="non-empty"):
        expected_calibration_error(p_N[:0], right_N[:0])


@pytest.mark.parametrize("planted", [0.4, 1.0, 3.0])
def test_the_planted_temperature_is_found_and_heals_the_calibration(planted: float) -> None:
    """The estimate's standard error here is about 2 %."""
    logit_N, right_N = outcomes(8000, planted)
    found = fit_temperature(logit_N, right_N)
    assert found == pytest.approx(planted, rel=0.06)
    before = expected_calibration_error(logit_N.sigmoid(), right_N)
    after = expected_calibration_error((logit_N / found).sigmoid(), right_N)
    assert after < 0.02
    assert (before > 0.08) == (planted != 1.0)
    best = float(confidence_loss(logit_N / found, right_N))
    for other in (0.9 * found, 1.1 * found):
        assert float(confidence_loss(logit_N / other, right_N)) > best


def test_the_ends_come_back_where_labels_are_separable() -> None:
    logit_N = torch.tensor([-1.0, 2.0])
    assert fit_temperature(logit_N, torch.tensor([False, True])) == pytest.approx(1e-3)
    assert fit_temperature(logit_N, torch.tensor([True, False])) == pytest.approx(1e3)


def test_a_head_fades_from_the_routed_code_to_the_static_one() -> None:
    head = ConfidenceHead(3)
    routed = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    u_BH = torch.zeros(2, 3)
    for bias, p in ((-200.0, 0.0), (200.0, 1.0), (0.0, 0.5)):
        head.bias_1.data.fill_(bias)
        expected = 0.25 + p * (routed - 0.25)
        torch.testing.assert_close(head.fade(routed, u_BH, static=0.25), expected)
    head.bias_1.data.fill_(2.0)
    head.temperature_1.fill_(4.0)
    signals: dict[str, torch.Tensor] = {}
    code = head.fade(routed, u_BH, static=1.0, signals=signals)
    torch.testing.assert_close(code, 1 + (routed - 1) / (1 + math.exp(-0.5)))
    assert signals["routed_code"] is routed
    assert signals["confidence_logit"].tolist() == [2.0, 2.0]


def test_confidence_is_high_where_routing_helps_and_its_calibration_is_repaired(
    planted_host: Callable[[], AdapterHost], planted_batch: Callable[..., Batch]
) -> None:
    """Clusters 0 and 1 have answers of their own, 2 and 3 answer at random: a code cannot help.

    Then the head is made four times too sure by hand: the temperature finds it out.
    """
    host = planted_host()
    draw = torch.Generator().manual_seed(0)
    config = make_config("generated", rank=2, targets="mlp", uncertainty=True, code_spread=2.0)
    adapter = host.add("bem", config, generator=draw)
    assert isinstance(adapter, GeneratedAdapter)
    host.use("bem")

    def step_loss(step: int) -> torch.Tensor:
        batch = planted_batch(32, draw, noisy=(2, 3))
        context = batch.routing(record=True)
        loss = target_loss(host, batch, context)
        return loss + 0.3 * confidence_term(host, "bem", batch, context)

    fit(step_loss, host.parameter_groups(1e-2, controller_lr_scale=1.0), steps=120)
    held_out = [planted_batch(200, draw, noisy=(2, 3)) for _ in range(3)]
    logit_B, right_B = labelled_logits(host, "bem", held_out[0])
    noisy_B = torch.tensor([int(cluster) >= 2 for cluster in held_out[0].clusters])
    assert float(right_B[~noisy_B].float().mean()) > 0.9
    assert float(logit_B[~noisy_B].mean() - logit_B[noisy_B].mean()) > 1.0
    honest = calibrate(host, "bem", held_out[:2])
    assert honest.ece_after < 0.1
    head = adapter.confidence
    assert head is not None
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(4)
    repaired = calibrate(host, "bem", held_out[:2])
    assert repaired.temperature == pytest.approx(4 * honest.temperature, rel=1e-3)
    assert repaired.ece_before > 1.5 * repaired.ece_after
    assert repaired.nll_after < repaired.nll_before


def test_labels_leave_the_auxiliary_loss_of_the_step_alone(
    llama: BaseModel, planted_batch: Callable[..., Batch]
) -> None:
    host = AdapterHost(llama)
    draw = torch.Generator().manual_seed(0)
    for name in ("bank", "other"):
        config = make_config("banked", uncertainty=True, balance_weight=1.0)
        host.add(name, config, generator=draw)
    host.use("bank", "other")
    batch = planted_batch(6, draw)
    context = batch.routing(record=True)
    target_loss(host, batch, context)
    before = host.auxiliary_loss()
    term = confidence_term(host, "bank", batch, context)
    assert float(before.detach()) > 1.5
    assert torch.equal(host.auxiliary_loss(), before)
    term.backward()
    head = host["bank"].confidence
    assert head is not None
    assert head.bias_1.grad is not None


def test_row_losses_average_to_the_batch_loss_and_no_head_is_an_error(
    llama: BaseModel, planted_batch: Callable[..., Batch]
) -> None:
    host = AdapterHost(llama)
    draw = torch.Generator().manual_seed(0)
    host.add("bem", make_config("generated", rank=2), generator=draw)
    host.use("bem")
    batch = planted_batch(6, draw)
    with torch.no_grad():
        rows = row_losses(host, batch, batch.routing())
        assert float(rows.mean()) == pytest.approx(
            float(target_loss(host, batch, batch.routing())), rel=1e-5
        )
    with pytest.raises(InvalidInputError, match="left no confidence"):
        labelled_logits(host, "bem", batch)
    with pytest.raises(InvalidInputError, match="no confidence head"):
        calibrate(host, "bem", [batch])

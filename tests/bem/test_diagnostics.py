from __future__ import annotations

import pytest
import torch

from bem import AdapterHost, BaseModel, make_config
from bem.data import Example, encode, pad
from bem.diagnostics import code_report, code_variance, shift
from bem.errors import InvalidInputError


def test_shift_leaves_no_row_in_its_place() -> None:
    draw = torch.Generator().manual_seed(0)
    for rows in (2, 3, 10):
        for _ in range(20):
            permutation = shift(rows, draw)
            assert sorted(permutation.tolist()) == list(range(rows))
            assert not bool((permutation == torch.arange(rows)).any())
    with pytest.raises(InvalidInputError, match="at least two rows"):
        shift(1, draw)


def test_a_used_code_has_a_gap_and_a_collapsed_one_has_none(llama: BaseModel) -> None:
    host = AdapterHost(llama)
    draw = torch.Generator().manual_seed(0)
    for name, code in (("seq", "sequence"), ("tok", "token")):
        adapter = host.add(name, make_config("generated", rank=3, code=code), generator=draw)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    host.add("static", make_config("lora", rank=2), generator=draw)
    examples = [Example(prompt=c * 3, target=c, id=c, cluster="c") for c in "abcdef"]
    batch = pad(encode(examples, llama.tokenizer), pad_id=0)
    for name in ("seq", "tok"):
        report = code_report(host, name, batch, generator=draw)
        assert report.variance > 1e-4
        assert abs(report.gap) > 1e-4
    with torch.no_grad():
        host["seq"].controller.heads_NH.zero_()
    collapsed = code_report(host, "seq", batch, generator=draw)
    assert collapsed.variance == 0.0
    assert collapsed.gap == 0.0
    with pytest.raises(InvalidInputError, match="it is static"):
        code_report(host, "static", batch, generator=draw)


def test_code_variance_by_hand() -> None:
    assert code_variance(torch.tensor([[1.0, 5.0], [3.0, 5.0]])) == pytest.approx(0.5)

"""`torch.compile` of a host: one graph, whatever the adapter, with the same logits and gradients.

`fullgraph=True` makes any graph break an error. Backend "eager" traces and runs what was traced;
"aot_eager" also traces the backward; "inductor" generates code, where there is a compiler.

Legend: B rows, T positions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from adapter_cells import add, batch_of, close
from torch import Tensor
from transformers import DynamicCache

from bem import AdapterHost, BaseModel, RoutingContext, load_base, make_config
from bem.evaluate import target_loss
from bem.testing import write_tiny_base
from bem.testing.support import variants

VARIANTS = variants()
pytestmark = pytest.mark.filterwarnings(
    # all are torch's own doing: dynamo reads `.grad` of what it traces and makes a context of
    # `torch.autograd.Function` to trace ours, inductor scripts a method
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
    "ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(write_tiny_base(tmp_path_factory.mktemp("compiled")))


@pytest.fixture
def host(base: BaseModel) -> Iterator[AdapterHost]:
    torch.compiler.reset()
    with AdapterHost(base) as made:
        yield made
    torch.compiler.reset()


def gradients(host: AdapterHost) -> list[Tensor]:
    found = [p.grad.clone() for p in host["tested"].parameters() if p.grad is not None]
    host.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("label", VARIANTS)
def test_one_graph_with_the_same_logits(host: AdapterHost, label: str) -> None:
    add(host, VARIANTS[label])
    batch = batch_of(2)
    compiled = torch.compile(host, backend="eager", fullgraph=True)
    with torch.no_grad():
        plain = host(batch.input_ids_BT, batch.attention_mask_BT, routing=batch.routing()).logits
        made = compiled(batch.input_ids_BT, batch.attention_mask_BT, routing=batch.routing()).logits
    close(made, plain)


BACKENDS = [
    ("generated (token)", "aot_eager"),
    ("generated (sequence)", "aot_eager"),
    ("banked (token)", "aot_eager"),
    pytest.param(
        "generated (token)",
        "inductor",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler"),
        ],
    ),
]


@pytest.mark.parametrize(("label", "backend"), BACKENDS)
def test_the_backward_is_traced_too(host: AdapterHost, label: str, backend: str) -> None:
    add(host, VARIANTS[label])
    batch = batch_of(2)
    plain = target_loss(host, batch, batch.routing())
    plain.backward()  # type: ignore[no-untyped-call]
    wanted = gradients(host)

    def loss(ids_BT: Tensor, mask_BT: Tensor, context: RoutingContext) -> Tensor:
        logits_BTV = host(ids_BT, mask_BT, routing=context).logits
        return torch.nn.functional.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1), batch.labels_BT[:, 1:].flatten()
        )

    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    made = compiled(batch.input_ids_BT, batch.attention_mask_BT, batch.routing())
    torch.testing.assert_close(made, plain, rtol=1e-5, atol=1e-6)
    made.backward()
    for mine, theirs in zip(gradients(host), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_cached_decoding_with_a_compiled_host(host: AdapterHost, tmp_path: Path) -> None:
    """The sequence code of the prefill lives in the context that decode steps share."""
    add(host, make_config("generated", rank=2))
    compiled = torch.compile(host, backend="eager")
    ids_BT = batch_of(1).input_ids_BT
    prompt = 4
    outs = []
    for call in (host, compiled):
        context = RoutingContext(prefix_mask_BT=torch.ones(1, prompt, dtype=torch.bool))
        cache = DynamicCache(config=host.model.config)
        with torch.no_grad():
            parts = [call(ids_BT[:, :prompt], routing=context, past_key_values=cache).logits]
            for t in range(prompt, ids_BT.shape[1]):
                step = call(ids_BT[:, t : t + 1], routing=context, past_key_values=cache)
                parts.append(step.logits)
        outs.append(torch.cat(parts, dim=1))
    close(outs[1], outs[0])

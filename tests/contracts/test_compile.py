"""`torch.compile` of a host: one graph, whatever the adapter, with the same logits and gradients.

`fullgraph=True` makes any graph break an error. Backend "eager" traces and runs what was traced;
"aot_eager" also traces the backward; "inductor" generates code, where there is a compiler.
bem/README.md says how a compiled host is used.

Legend: B rows, T positions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
from adapter_cells import add, batch_of, close
from torch import Tensor
from transformers import DynamicCache

from bem import AdapterHost, BaseModel, RoutingContext, load_base, make_config
from bem.evaluate import target_loss
from bem.testing import write_tiny_base
from bem.testing.support import variants

VARIANTS = {
    label: config.model_copy(update={"feature_layer": 0})
    if hasattr(config, "feature_layer")
    else config
    for label, config in variants().items()
}
pytestmark = pytest.mark.filterwarnings(
    # all are torch's own doing: dynamo reads `.grad` of what it traces and makes a context of
    # `torch.autograd.Function` to trace ours, inductor scripts a method
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
    "ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """One layer: dynamo's time goes into tracing the model."""
    return load_base(write_tiny_base(tmp_path_factory.mktemp("compiled"), layers=1))


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


@pytest.mark.parametrize("label", ["generated (token)", "banked (token)"])
def test_the_backward_is_traced_too(host: AdapterHost, label: str) -> None:
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

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    made = compiled(batch.input_ids_BT, batch.attention_mask_BT, batch.routing())
    torch.testing.assert_close(made, plain, rtol=1e-5, atol=1e-6)
    made.backward()
    for mine, theirs in zip(gradients(host), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_generated_code_of_one_linear(host: AdapterHost) -> None:
    """Inductor on a linear with its token code; of a whole model it takes minutes on two cores."""
    adapter = add(host, make_config("generated", rank=2, code="token"))
    layer = adapter.layers[0]
    draw = torch.Generator().manual_seed(0)
    site = adapter.sites[0]
    x_BTI = torch.randn(2, 5, site.in_features, generator=draw)
    y_BTO = torch.randn(2, 5, site.out_features, generator=draw)
    compiled = torch.compile(layer, backend="inductor", fullgraph=True)
    made, plain = compiled(x_BTI, y_BTO), layer(x_BTI, y_BTO)
    torch.testing.assert_close(made, plain, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(o.square().sum(), list(layer.parameters())) for o in (made, plain)]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("code", ["sequence", "hierarchy"])
def test_cached_decoding_with_a_compiled_host(host: AdapterHost, code: str) -> None:
    """The sequence code of the prefill and the open chunk live in the context that decode steps
    share; what those steps keep outside of a graph is no part of one."""
    add(host, make_config("generated", rank=2, code=code, chunk_size=2))
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

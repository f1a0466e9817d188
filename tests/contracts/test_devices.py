"""Every adapter where the base does not stand on the CPU, without such a device: fake tensors.

torch's `FakeTensorMode` computes shapes and devices only and raises where an operation meets two
devices, as a GPU would. "meta" plays the device here: moving to a fake "cuda" wants a build with
CUDA. What the numbers are is `test_on_gpu`'s affair.

Legend: B rows, T positions.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_cells import add, batch_of
from adapter_uses import VARIANTS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import DynamicCache

from bem import AdapterHost, load_base
from bem.data import Batch
from bem.interfaces import Adapter
from bem.mixed import BASE_ROW, SlowRowsWarning
from bem.testing import write_tiny_base

pytestmark = pytest.mark.filterwarnings(
    "ignore:Accessing the data pointer of FakeTensor:UserWarning"
)
DEVICE = "meta"
FAMILIES = ("llama", "gpt2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {f: write_tiny_base(root / f, f, hidden_size=64, mlp_size=64) for f in FAMILIES}


@pytest.fixture(autouse=True)
def autocast_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast does not know this device: none of it is in force there."""
    real, asked = torch.autocast, torch.is_autocast_enabled

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        if device_type == DEVICE:
            return contextlib.nullcontext()
        return real(device_type, *args, **kwargs)

    def enabled(device_type: str | None = None) -> bool:
        if device_type is None:
            return asked()
        return device_type != DEVICE and asked(device_type)

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(torch, "is_autocast_enabled", enabled)


@contextlib.contextmanager
def moved(host: AdapterHost) -> Iterator[Batch]:
    """Parameters and buffers to the device, as `Module.to` does; tensors made inside are fake."""
    there: dict[int, tuple[Tensor, Tensor]] = {}  # the first held, so that no other has its id
    batch = batch_of(3)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def move(tensor: Tensor) -> Tensor:
            if id(tensor) not in there:
                fake = mode.from_tensor(tensor.detach()).to(DEVICE)
                if isinstance(tensor, nn.Parameter):
                    fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                there[id(tensor)] = tensor, fake
            return there[id(tensor)][1]

        for module in {*host.model.modules(), *host.adapters.modules()}:
            for own in (module._parameters, module._buffers):
                own.update({name: move(t) for name, t in own.items() if t is not None})  # type: ignore[arg-type]
        host.base._named_parameters = list(host.model.named_parameters())
        tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
        yield replace(batch, **{n: move(t) for n, t in tensors.items() if isinstance(t, Tensor)})


def train(host: AdapterHost, adapter: Adapter, batch: Batch) -> None:
    routing = batch.routing()
    out = host(batch.input_ids_BT, batch.attention_mask_BT, routing=routing).logits
    loss = out.square().mean() + host.auxiliary_loss()
    assert loss.device.type == DEVICE
    if adapter.gradient_free:
        return
    loss.backward()
    check_gradients(adapter)
    host.after_step(0)


def check_gradients(adapter: Adapter) -> None:
    grads = [parameter.grad for parameter in adapter.trainable()]
    assert all(grad is None or grad.device.type == DEVICE for grad in grads)
    assert any(grad is not None for grad in grads)


def checkpointing(host: AdapterHost, adapter: Adapter, batch: Batch) -> None:
    host.enable_gradient_checkpointing()
    train(host, adapter, batch)


@torch.no_grad()
def cached_decode(host: AdapterHost, adapter: Adapter, batch: Batch) -> None:
    routing = batch.routing()
    cache = DynamicCache(config=host.model.config)
    for ids_BT in (batch.input_ids_BT, *[batch.input_ids_BT[:, -1:]] * 2):
        out = host(ids_BT, routing=routing, past_key_values=cache).logits
        assert out.device.type == DEVICE


def mixed_batch(host: AdapterHost, adapter: Adapter, batch: Batch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowRowsWarning)
        for names in (("tested", BASE_ROW, "expert_0"), ("tested", "tested", "tested")):
            routing = batch.routing(rows=names)
            out = host(batch.input_ids_BT, batch.attention_mask_BT, routing=routing).logits
            assert out.device.type == DEVICE
            if adapter.gradient_free:
                continue
            out.square().mean().backward()
            check_gradients(adapter)


Use = Callable[[AdapterHost, Adapter, Batch], None]


CASES = (
    ("llama", train),
    ("llama", checkpointing),
    ("llama", cached_decode),
    ("llama", mixed_batch),
    ("gpt2", train),
)


@pytest.mark.parametrize(("family", "use"), CASES)
@pytest.mark.parametrize("label", VARIANTS)
def test_all_stands_where_the_base_does(
    folders: dict[str, Path], label: str, family: str, use: Use
) -> None:
    host = AdapterHost(load_base(folders[family]))
    adapter = add(host, VARIANTS[label])
    with moved(host) as batch:
        use(host, adapter, batch)


def test_a_tensor_that_stayed_behind_is_found(folders: dict[str, Path]) -> None:
    host = AdapterHost(load_base(folders["llama"]))
    add(host, VARIANTS["lora"])
    strength_B = torch.ones(3)
    with moved(host) as batch, pytest.raises(RuntimeError, match="same device"):
        host(batch.input_ids_BT, routing=batch.routing(strength=strength_B))

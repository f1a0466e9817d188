"""Every adapter in every use on a CUDA device, and its numbers against those of the CPU.

Without such a device all of it is skipped: `python -m pytest -m gpu`.

Legend: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from adapter_cells import add, batch_of, cached, close, logits, stir_up
from adapter_uses import VARIANTS, check_cell, gradients
from torch import Tensor

from bem import AdapterHost, BaseModel, RoutingContext, load_base
from bem.evaluate import target_loss
from bem.interfaces import Adapter
from bem.model import BEMConfig, BEMModel
from bem.nf4 import load_bitsandbytes, quantise_base
from bem.testing import write_tiny_base
from bem.testing.support import USES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is at hand"),
    pytest.mark.filterwarnings(
        # torch's own doing, see test_compile
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
        "ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning",
        "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
        "ignore:TensorFloat32 tensor cores .* not enabled:UserWarning",
    ),
]
FAMILIES = ("llama", "gpt2")
FUSING = ("lora", "generated (sequence)", "generated (token)", "generated (hierarchy)")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {f: write_tiny_base(root / f, f, hidden_size=64, mlp_size=64) for f in FAMILIES}


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, BaseModel]:
    return {family: load_base(folder, device="cuda") for family, folder in folders.items()}


@pytest.fixture(scope="module")
def nf4_bases(folders: dict[str, Path]) -> dict[str, BaseModel]:
    """By bitsandbytes where it is installed, else by torch."""
    backend = "torch" if load_bitsandbytes() is None else "bitsandbytes"
    return {
        family: quantise_base(load_base(folder, device="cuda"), backend=backend)
        for family, folder in folders.items()
    }


@pytest.fixture(
    scope="module",
    params=[(label, family) for label in VARIANTS for family in FAMILIES],
    ids=lambda pair: "-".join(pair),
)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    made: tuple[str, str] = request.param
    return made


@pytest.fixture(scope="module")
def host(pair: tuple[str, str], bases: dict[str, BaseModel]) -> Iterator[AdapterHost]:
    label, family = pair
    with AdapterHost(bases[family]) as made:
        add(made, VARIANTS[label])
        yield made


@pytest.mark.parametrize("use", USES)
def test_cell(
    pair: tuple[str, str],
    host: AdapterHost,
    nf4_bases: dict[str, BaseModel],
    use: str,
    tmp_path: Path,
) -> None:
    label, family = pair
    check_cell(host, nf4_bases[family], label, family, use, tmp_path)


def test_numbers_are_those_of_the_cpu(
    pair: tuple[str, str], host: AdapterHost, folders: dict[str, Path]
) -> None:
    """Logits, cached logits and gradients; weights and inputs are the same to the bit."""
    label, family = pair
    with AdapterHost(load_base(folders[family])) as there:
        theirs = add(there, VARIANTS[label])
        mine = host["tested"]
        mine.load_state_dict(theirs.state_dict())
        wanted, made = batch_of(3), batch_of(3, "cuda")
        close(logits(host, made).cpu(), logits(there, wanted), 1e-4)
        close(cached(host, made).cpu(), cached(there, wanted), 1e-4)
        if mine.gradient_free:
            return
        for mine_grad, their_grad in zip(
            gradients(host, mine), gradients(there, theirs), strict=True
        ):
            close_gradient(mine_grad.cpu(), their_grad)


def close_gradient(made: Tensor, wanted: Tensor) -> None:
    assert float((made - wanted).norm()) <= 1e-3 * float(wanted.norm()) + 1e-7


@pytest.mark.parametrize("label", FUSING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_host_that_fuses_gives_the_same_logits_and_gradients(
    folders: dict[str, Path], label: str, dtype: torch.dtype
) -> None:
    """The kernels as a host uses them: prefill, decode, backward, autocast."""
    with AdapterHost(load_base(folders["llama"], device="cuda")) as host:
        adapter = add(host, VARIANTS[label])
        found = []
        for fused in (False, True):
            host.fuse(fused)
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                batch = batch_of(2, "cuda")
                full = logits(host, batch).float()
                steps = cached(host, batch).float()
                target_loss(host, batch, batch.routing()).backward()  # type: ignore[no-untyped-call]
            grads = taken(adapter)
            assert len(grads) == len(adapter.trainable())
            found.append([full, steps, *grads])
        bound = 1e-4 if dtype == torch.float32 else 3e-2
        for plain, made in zip(*found, strict=True):
            assert bool(made.isfinite().all())
            assert float((made - plain).norm()) <= bound * float(plain.norm()) + 1e-7


def taken(adapter: Adapter) -> list[Tensor]:
    found = [p.grad.clone() for p in adapter.trainable() if p.grad is not None]
    adapter.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("label", ["lora", "generated (token)", "generated (sequence)"])
def test_generated_code_of_a_whole_host(folders: dict[str, Path], label: str) -> None:
    """Inductor: one graph, its logits and its gradients."""
    with AdapterHost(load_base(folders["llama"], device="cuda")) as host:
        torch.compiler.reset()
        config = VARIANTS[label]
        if hasattr(config, "feature_layer"):
            config = config.model_copy(update={"feature_layer": 0})
        adapter = add(host, config)
        batch = batch_of(2, "cuda")

        def loss(ids_BT: Tensor, mask_BT: Tensor, context: RoutingContext) -> Tensor:
            logits_BTV = host(ids_BT, mask_BT, routing=context).logits
            return torch.nn.functional.cross_entropy(
                logits_BTV[:, :-1].flatten(0, 1), batch.labels_BT[:, 1:].flatten()
            )

        compiled = torch.compile(loss, fullgraph=True)
        found = []
        for call in (loss, compiled):
            made = call(batch.input_ids_BT, batch.attention_mask_BT, batch.routing())
            made.backward()
            found.append([made.detach(), *taken(adapter)])
        for plain, made in zip(*found, strict=True):
            assert float((made - plain).norm()) <= 1e-3 * float(plain.norm()) + 1e-7
        torch.compiler.reset()


def test_texts_are_generated_as_on_the_cpu(folders: dict[str, Path]) -> None:
    """Greedy; then a draw, which a Generator of the CPU seeds."""
    texts = ["name: Ada", "a longer prompt of another row"]
    made = []
    for device in ("cpu", "cuda"):
        config = BEMConfig(
            base=str(folders["llama"]), adapters={"a": {"kind": "generated", "rank": 4}}
        )
        with BEMModel(config, device=device) as model:
            stir_up(model.host["a"], torch.Generator().manual_seed(0))
            made.append(model.generate(texts, max_new_tokens=12, do_sample=False))
            drawn = [
                model.generate(
                    texts,
                    max_new_tokens=12,
                    do_sample=True,
                    generator=torch.Generator().manual_seed(3),
                )
                for _ in range(2)
            ]
            assert drawn[0] == drawn[1]
    assert made[0] == made[1]

"""NF4: our numbers are bitsandbytes' bit for bit, and adapters stand on either base."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from bem import AdapterHost, load_base, make_config
from bem.checkpoint import load_adapter, save_adapter
from bem.data import Encoded, pad
from bem.errors import CheckpointError, InvalidInputError
from bem.evaluate import target_loss
from bem.layers.peft_sites import PeftAdapter
from bem.merging import merged
from bem.nf4 import BLOCK, LEVELS, dequantise, load_bitsandbytes, quantise, quantise_base
from bem.testing import write_tiny_base
from bem.training import fit

bitsandbytes = load_bitsandbytes()
SHAPES = [(32, 64), (8, 192), (7, 13), (5, 3), (33, 65), (1, 1), (64,)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs that are multiples of the block, as bitsandbytes needs them on a CPU."""
    root = tmp_path_factory.mktemp("wide")
    return write_tiny_base(root, hidden_size=64, mlp_size=128)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_torch_reference_is_bitsandbytes_bit_for_bit(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    functional = bitsandbytes.functional
    assert functional.get_4bit_type("nf4", device="cpu").tolist() == list(LEVELS)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.1
    if weight.numel() > 2 * BLOCK:
        weight.view(-1)[:BLOCK] = 0.0  # a block without a scale
    weight = weight.to(dtype)
    theirs, state = functional.quantize_4bit(
        weight, quant_type="nf4", blocksize=BLOCK, compress_statistics=False
    )
    packed, maximum_K = quantise(weight)
    assert torch.equal(packed, theirs.flatten())
    assert torch.equal(maximum_K, state.absmax)
    if len(shape) == 2 and shape[1] % BLOCK and not shape[1] % 2:
        pytest.fail("choose shapes that bitsandbytes dequantises rightly on a CPU")
    ours = dequantise(packed, maximum_K, shape).to(dtype)
    assert torch.equal(ours, functional.dequantize_4bit(theirs, state).view(shape))


def test_why_bitsandbytes_is_refused_for_some_shapes() -> None:
    """The day this fails, the refusal in `quantise_base` can go."""
    weight = torch.randn(40, 48, generator=torch.Generator().manual_seed(0))
    functional = bitsandbytes.functional
    theirs, state = functional.quantize_4bit(
        weight, quant_type="nf4", blocksize=BLOCK, compress_statistics=False
    )
    packed, maximum_K = quantise(weight)
    assert torch.equal(packed, theirs.flatten())
    right = (dequantise(packed, maximum_K, (40, 48)) - weight).abs().max()
    wrong = (functional.dequantize_4bit(theirs, state) - weight).abs().max()
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert float(wrong) > 2 * float(right)


def rows() -> list[Encoded]:
    draw = torch.Generator().manual_seed(4)
    tokens = torch.randint(3, 250, (4, 9), generator=draw).tolist()
    return [
        Encoded(prompt_ids=tuple(t[:6]), target_ids=tuple(t[6:]), id=str(i), cluster="c")
        for i, t in enumerate(tokens)
    ]


def test_both_backends_are_the_same_function(folder: Path, tmp_path: Path) -> None:
    batch = pad(rows(), pad_id=0)
    logits, digests = [], set()
    for backend in ("bitsandbytes", "torch"):
        base = load_base(folder)
        exact = base.model(batch.input_ids_BT).logits.detach()
        plain = base.digest
        quantise_base(base, backend=backend)
        digests |= {base.digest, plain}
        with torch.no_grad():
            logits.append(base.model(batch.input_ids_BT).logits)
        with pytest.raises(InvalidInputError, match="is 'nf4' already"):
            quantise_base(base, backend=backend)
    assert torch.equal(logits[0], logits[1])
    assert len(digests) == 2
    assert 0.01 < float((logits[0] - exact).abs().mean() / exact.abs().mean()) < 0.3


@pytest.mark.parametrize("backend", ["bitsandbytes", "torch"])
@pytest.mark.parametrize("kind", ["lora", "generated", "peft_lora", "dora"])
def test_an_adapter_learns_on_an_nf4_base(
    folder: Path, tmp_path: Path, kind: str, backend: str
) -> None:
    base = load_base(folder)
    quantise_base(base, backend=backend)
    host, draw = AdapterHost(base), torch.Generator().manual_seed(0)
    adapter = host.add("a", make_config(kind, rank=4), generator=draw)
    host.use("a")
    batch = pad(rows(), pad_id=0)

    def step_loss(step: int) -> Tensor:
        return target_loss(host, batch, batch.routing())

    before = {name: p.clone() for name, p in base.model.named_parameters()}
    losses = fit(step_loss, host.parameter_groups(1e-2), steps=12).losses
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(before[n], p) for n, p in base.model.named_parameters())
    save_adapter(host, "a", tmp_path / "a")
    with torch.no_grad():
        trained = float(step_loss(0))
    host.detach()
    with pytest.raises(CheckpointError, match="belongs to another base"):
        load_adapter(AdapterHost(load_base(folder)), "a", tmp_path / "a")
    fresh = AdapterHost(quantise_base(load_base(folder), backend=backend))
    load_adapter(fresh, "a", tmp_path / "a")
    fresh.use("a")
    with torch.no_grad():
        assert float(target_loss(fresh, batch, batch.routing())) == trained
    assert adapter.num_parameters() == fresh["a"].num_parameters()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["peft_lora", "dora"])
def test_qlora_is_what_peft_makes_of_a_bitsandbytes_model(folder: Path, kind: str) -> None:
    base = quantise_base(load_base(folder))
    twin = copy.deepcopy(base.model)
    twin.is_loaded_in_4bit = True
    names = sorted({site.name.rsplit(".", 1)[1] for site in base.sites("all-linear")})
    whole = get_peft_model(
        twin, LoraConfig(r=4, lora_alpha=12, target_modules=names, use_dora=kind == "dora")
    )
    host, draw = AdapterHost(base), torch.Generator().manual_seed(0)
    adapter = host.add("q", make_config(kind, rank=4, alpha=12.0), generator=draw)
    assert isinstance(adapter, PeftAdapter)
    host.use("q")
    with torch.no_grad():
        for site, layer in zip(adapter.sites, adapter.peft_layers(), strict=True):
            theirs = whole.base_model.model.get_submodule(site.name)
            assert type(theirs).__name__ == "Linear4bit"
            other = dict(theirs.named_parameters())
            for name, parameter in layer.named_parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
                other[name].copy_(parameter)
    ids_BT = torch.randint(3, 250, (3, 11), generator=draw)
    with torch.no_grad():
        torch.testing.assert_close(host(ids_BT).logits, whole(ids_BT).logits, rtol=0, atol=2e-6)


def test_what_cannot_be_done_is_refused(folder: Path, tmp_path: Path) -> None:
    base = load_base(write_tiny_base(tmp_path, hidden_size=32))
    with pytest.raises(InvalidInputError, match="32 inputs wrongly"):
        quantise_base(base)
    quantise_base(load_base(tmp_path), backend="torch")
    base = quantise_base(load_base(folder), backend="torch")
    with AdapterHost(base) as host:
        with pytest.raises(InvalidInputError, match="carries an AdapterHost"):
            quantise_base(base, backend="torch")
        host.add("a", make_config("lora", rank=2), generator=torch.Generator())
        with pytest.raises(InvalidInputError, match="is quantised"), merged(host, "a"):
            pass

"""A base in NF4, four bits a weight: bitsandbytes, or the same numbers in plain torch.

NF4 is the 4-bit NormalFloat of QLoRA, arXiv 2305.14314, in blocks of 64 weights with a float32
absolute maximum each (no second quantisation of those). `quantise` and `dequantise` are bit for
bit what bitsandbytes computes. It knows no adapter.

Legend: T positions, I inputs, O outputs, N weights, K blocks.
"""

from __future__ import annotations

import logging
import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bem.base import BaseModel
from bem.errors import InvalidInputError

BLOCK = 64
"""Weights that share one maximum."""
# Quantiles of the standard normal, scaled to [-1, 1], zero among them: QLoRA, appendix E.
LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
Backend = Literal["bitsandbytes", "torch"]


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Two 4-bit codes a byte, the first in the high half (uint8, ceil(N / 2)), and maxima (K)."""
    levels = torch.tensor(LEVELS, device=weight.device)
    bounds = (levels[:-1] + levels[1:]) / 2
    flat_N = weight.detach().reshape(-1).float()
    blocks_KB = nn.functional.pad(flat_N, (0, -flat_N.numel() % BLOCK)).view(-1, BLOCK)
    maximum_K = blocks_KB.abs().amax(1)
    scaled_KB = blocks_KB * (1.0 / maximum_K.clamp_min(1e-38))[:, None]
    if rest := flat_N.numel() % BLOCK:  # bitsandbytes divides in an incomplete block
        maximum_K[-1].clamp_(min=1e-38)
        scaled_KB[-1, :rest] = blocks_KB[-1, :rest] / maximum_K[-1]
    code_N = torch.bucketize(scaled_KB.clamp(-1, 1), bounds).flatten()[: flat_N.numel()]
    code_N = nn.functional.pad(code_N, (0, code_N.numel() % 2), value=7).to(torch.uint8)
    return code_N[::2] << 4 | code_N[1::2], maximum_K


def dequantise(packed: Tensor, maximum_K: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The weights that the codes stand for, float32."""
    levels = torch.tensor(LEVELS, device=packed.device)
    code_N = torch.stack([packed >> 4, packed & 15], dim=1).flatten().long()
    size = torch.Size(shape).numel()
    scale_N = maximum_K.repeat_interleave(BLOCK)[:size]
    return (levels[code_N[:size]] * scale_N).view(shape)


class Nf4Linear(nn.Linear):
    """A frozen linear whose weight is held in NF4 and dequantised in each forward."""

    maximum_K: Tensor

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight_OI.shape
        packed, maximum_K = quantise(weight_OI)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("maximum_K", maximum_K)
        bias = None if bias_O is None else nn.Parameter(bias_O.detach(), requires_grad=False)
        self.register_parameter("bias", bias)
        self.dtype = weight_OI.dtype

    def dequantised(self) -> Tensor:
        """(O, I), in the precision that the base had."""
        shape = (self.out_features, self.in_features)
        return dequantise(self.weight, self.maximum_K, shape).to(self.dtype)

    def forward(self, x_BTI: Tensor) -> Tensor:
        """The linear with the dequantised weight; the gradient reaches its input."""
        return nn.functional.linear(x_BTI, self.dequantised(), self.bias)


def quantise_base(base: BaseModel, *, backend: Backend = "bitsandbytes") -> BaseModel:
    """Put every linear of the decoder layers into NF4, in place; embeddings and head stay.

    The base gets another digest: an adapter belongs to the precision it was trained on.

    Raises:
        InvalidInputError: an AdapterHost holds the base, it is quantised already, or bitsandbytes
            is asked for and not installed or not right for these shapes.
    """
    if base.hosted or base.variant:
        state = "carries an AdapterHost" if base.hosted else f"is '{base.variant}' already"
        raise InvalidInputError(f"Base '{base.ref}' {state}: quantise a fresh one.")
    if backend == "bitsandbytes" and load_bitsandbytes() is None:
        raise InvalidInputError(
            "bitsandbytes is not installed: install the extra 'baselines', or give "
            "backend='torch', which computes the same numbers."
        )
    make = _bitsandbytes_linear if backend == "bitsandbytes" else Nf4Linear
    for site in base.sites("all-linear"):
        linear = base.model.get_submodule(site.name)
        weight = linear.weight.detach()
        quantised = make(weight.t() if isinstance(linear, Conv1D) else weight, linear.bias)
        parent, _, leaf = site.name.rpartition(".")
        setattr(base.model.get_submodule(parent), leaf, quantised.eval())
    base.changed("nf4")
    return base


def _bitsandbytes_linear(weight_OI: Tensor, bias_O: Tensor | None) -> Any:
    library = load_bitsandbytes()
    out_features, in_features = weight_OI.shape
    if in_features % BLOCK and weight_OI.device.type == "cpu":
        raise InvalidInputError(
            f"bitsandbytes on a CPU dequantises a linear of {in_features} inputs wrongly: its "
            f"kernel assumes a multiple of {BLOCK}. Give backend='torch'."
        )
    linear = library.nn.Linear4bit(
        in_features, out_features, bias=bias_O is not None, compute_dtype=weight_OI.dtype
    )
    linear.weight = library.nn.Params4bit(
        weight_OI.detach().contiguous(),
        requires_grad=False,
        quant_type="nf4",
        blocksize=BLOCK,
        compress_statistics=False,
    )
    if bias_O is not None:
        linear.bias = nn.Parameter(bias_O.detach(), requires_grad=False)
    # On CPUs with AVX512-BF16 it would repack weights at the first inference and multiply in
    # bfloat16: generation would no longer agree with training, nor one machine with another.
    linear.support_avx512bf16_for_cpu = False
    return linear.to(weight_OI.device)  # quantises


def dense_weight(linear: Any) -> Tensor:
    """(O, I) of a linear of any make, dequantised where it is in NF4."""
    weight: Tensor = linear.weight
    if isinstance(linear, Nf4Linear):
        return linear.dequantised()
    if type(weight).__name__ == "Params4bit":
        state = weight.quant_state  # type: ignore[attr-defined]
        dense: Tensor = load_bitsandbytes().functional.dequantize_4bit(weight.data, state)
        return dense
    return weight.t() if isinstance(linear, Conv1D) else weight


@cache
def load_bitsandbytes() -> Any:
    """The library, or None where it is not installed. Its import on a CPU is noisy: it scripts a
    function by a deprecated call of torch, and logs that an optional CPU kernel, fetched from a
    hub, is missing. Neither matters here; nothing else is silenced."""
    if find_spec("bitsandbytes") is None:
        return None
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".torch.jit.script_method. is", category=DeprecationWarning
            )
            import bitsandbytes
    finally:
        logger.setLevel(level)
    return bitsandbytes

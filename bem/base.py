"""The frozen base: a Hugging Face causal language model with its tokenizer and its digest.

It finds the decoder layers and their linears in any family built of one list of layers (Llama,
Qwen, Mistral, Gemma, Phi, GPT-2 with its transposed `Conv1D`, NeoX). It knows no adapter.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from bem.errors import BaseModelError, InvalidInputError, first_line
from bem.interfaces import Site

PRESETS = ("attention", "mlp", "all-linear")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear of any make, None for anything else."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return None


class BaseModel:
    """A causal language model as adapters see it. Build it with `load_base`."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, ref: str, folder: Path | None = None
    ) -> None:
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.ref = ref
        self.folder = folder
        self.hosted = False  # an AdapterHost holds its linears
        self.variant = ""  # what was done to the weights after loading
        self.decoder: Any = self.model.base_model
        self.layers = self._find_layers()
        self.hidden_size: int = self.text_config.hidden_size
        self._named_parameters = list(self.model.named_parameters())
        self._sites = self._find_sites()

    @property
    def text_config(self) -> Any:
        """The language part of the Hugging Face config."""
        return self.model.config.get_text_config()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._named_parameters[0][1].device

    @cached_property
    def digest(self) -> str:
        """What identifies the weights: their files' hash, or their own where there is no folder."""
        sha = hashlib.sha256(self.model.config.model_type.encode())
        files = sorted(self.folder.glob("*.safetensors")) if self.folder else []
        for path in files:
            with path.open("rb") as stream:
                sha.update(hashlib.file_digest(stream, "sha256").digest())
        if not files:
            for name, parameter in sorted(self._named_parameters, key=lambda item: item[0]):
                sha.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
                flat = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8)
                sha.update(flat.numpy().tobytes())
        sha.update(self.variant.encode())
        return sha.hexdigest()

    def changed(self, variant: str) -> None:
        """Say that the weights are no longer those that were loaded, but `variant` of them."""
        self.variant = variant
        self.__dict__.pop("digest", None)
        self._named_parameters = list(self.model.named_parameters())

    def sites(self, targets: str | tuple[str, ...]) -> tuple[Site, ...]:
        """The linears that a preset or a tuple of name suffixes selects, in model order."""
        if isinstance(targets, str) and targets in PRESETS:
            chosen = [s for s in self._sites if targets in ("all-linear", _role(s.name))]
            if not chosen:
                raise InvalidInputError(f"Base '{self.ref}' has no linear for preset '{targets}'.")
            return tuple(chosen)
        suffixes = (targets,) if isinstance(targets, str) else targets
        for suffix in suffixes:
            if not any(_ends_with(site.name, suffix) for site in self._sites):
                known = ", ".join(sorted({site.name.rsplit(".", 1)[-1] for site in self._sites}))
                raise InvalidInputError(
                    f"Target '{suffix}' matches no linear of base '{self.ref}'. "
                    f"Known: {known}; presets: {', '.join(PRESETS)}."
                )
        return tuple(s for s in self._sites if any(_ends_with(s.name, x) for x in suffixes))

    def forward_flops(self, *, batch: int, seq_len: int, head: bool = True) -> int:
        """FLOPs of one forward without cache: products only, a multiply-add is two.

        Every linear, both attention products over the full square (as they are computed, masked
        or not), and (with `head`) the output head. Norms, activations and rotations are left out.
        """
        config = self.text_config
        linears = sum(site.in_features * site.out_features for site in self._sites)
        head_out, head_in = self.model.get_output_embeddings().weight.shape
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        attention = 4 * len(self.layers) * heads * head_dim * seq_len * seq_len
        output = head_out * head_in if head else 0
        return int(batch * (2 * seq_len * (linears + output) + attention))

    def head(self, h_BTD: Tensor) -> Tensor:
        """Logits from last hidden states (any leading shape), for heads without extra scaling."""
        logits: Tensor = self.model.get_output_embeddings()(h_BTD)
        return logits

    @cached_property
    def head_is_plain(self) -> bool:
        """Whether `head` is all that the family does (Gemma 2 soft-caps, Cohere scales)."""
        config = self.text_config
        extras = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
        return all(getattr(config, extra, None) is None for extra in extras)

    def _find_layers(self) -> nn.ModuleList:
        count = self.text_config.num_hidden_layers
        for module in self.decoder.children():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise BaseModelError(
            f"Base '{self.ref}' ({type(self.model).__name__}): no list of its {count} decoder "
            "layers was found. Known to work: Llama, Qwen, Mistral, GPT-2."
        )

    def _find_sites(self) -> tuple[Site, ...]:
        prefix = next(n for n, m in self.model.named_modules() if m is self.layers)
        found = []
        for index, layer in enumerate(self.layers):
            for name, module in layer.named_modules():
                shape = linear_shape(module)
                if shape is not None:
                    path = f"{prefix}.{index}.{name}"
                    found.append(
                        Site(name=path, layer=index, in_features=shape[0], out_features=shape[1])
                    )
        return tuple(found)


def _role(path: str) -> str:
    return "attention" if "attn" in path or "attention" in path else "mlp"


def _ends_with(path: str, suffix: str) -> bool:
    return path == suffix or path.endswith(f".{suffix}")


@contextmanager
def progress_bars_off() -> Iterator[None]:
    """No progress bars of transformers: loading is quick and logs stay readable."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def load_base(
    ref: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> BaseModel:
    """A Hugging Face causal language model by local folder or hub id, in evaluation mode.

    A `Path`, or a string that begins with `/`, `.` or `~`, is always a folder.
    """
    folder = _resolve(ref)
    if not (folder / "config.json").is_file():
        raise BaseModelError(f"Base model folder '{folder}' has no config.json.")
    try:
        with progress_bars_off():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, attn_implementation=_attention(device), local_files_only=True
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"Base model '{ref}' cannot be loaded: {first_line(error)}") from error
    model.to(device).eval()
    return BaseModel(model, tokenizer, str(ref), folder)


def _attention(device: str | torch.device) -> str:
    """Fused attention on accelerators; plain products on a CPU.

    On a CPU the fused backward in bfloat16 took twice the time of the plain one (batch 32 x 45
    tokens, d = 128, 3 layers, 1 thread: 99 against 48 ms), and both forwards the same.
    """
    return "eager" if torch.device(device).type == "cpu" else "sdpa"


def _resolve(ref: str | Path) -> Path:
    folder = Path(ref).expanduser()
    if folder.is_dir():
        return folder
    text = str(ref)
    if isinstance(ref, Path) or text.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(text):
        raise BaseModelError(
            f"Base model folder '{ref}' does not exist. Give a local folder or a hub id "
            "such as 'org/name'."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
        return Path(snapshot_download(text, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise BaseModelError(
            f"Base model '{text}' is neither a local folder nor a hub model that could be "
            f"fetched: {first_line(error)}"
        ) from error

"""State as a tree: what a training must keep, split into tensors and plain JSON, and joined again.

A tree is made of dicts with text keys, lists, tensors, numbers, text, booleans and None. It is what
safetensors and JSON can hold without loss; nothing is ever pickled. It knows no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bem.errors import CheckpointError, InvalidInputError

_TENSOR = "$tensor"


class Stateful(Protocol):
    """Something whose state a checkpoint carries (the protocol of `torch.distributed`)."""

    def state_dict(self) -> dict[str, Any]:
        """The state as a tree."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Takes such a state back."""


class NumpyDraws:
    """A NumPy generator as something that can be put back where it stood."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        return {"numpy": dict(self._generator.bit_generator.state)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._generator.bit_generator.state = state_dict["numpy"]


class TorchDraws:
    """A torch generator as something that can be put back where it stood."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        return {"torch": self._generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._generator.set_state(state_dict["torch"])


def split(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """(tensors by path, the rest as plain JSON with the paths in their places).

    Raises:
        InvalidInputError: something that neither safetensors nor JSON holds.
    """
    found = _Tensors(by_path={}, path_of={})
    plain = _split(tree, "", found)
    return found.by_path, plain


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tensors:
    by_path: dict[str, Tensor]
    path_of: dict[tuple[Any, ...], str]
    """Where a tensor stands that comes again; safetensors holds each memory once."""

    def path(self, tensor: Tensor, path: str) -> str:
        memory = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and memory in self.path_of:
            return self.path_of[memory]
        self.by_path[path] = tensor.detach().cpu().contiguous()
        self.path_of[memory] = path
        return path


def _split(tree: Any, path: str, tensors: _Tensors) -> Any:
    if isinstance(tree, Tensor):
        return {_TENSOR: tensors.path(tree, path or "root")}
    if isinstance(tree, Mapping):
        if _TENSOR in tree or not all(isinstance(key, str) for key in tree):
            raise InvalidInputError(
                f"State at {path or 'its root'!r}: keys must be text, not {list(tree)}."
            )
        return {key: _split(value, f"{path}/{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_split(value, f"{path}/{i}", tensors) for i, value in enumerate(tree)]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise InvalidInputError(
        f"State at {path or 'its root'!r} is a {type(tree).__name__}; a checkpoint holds tensors, "
        "numbers, text, lists and dicts."
    )


def join(tensors: Mapping[str, Tensor], plain: Any) -> Any:
    """The tree that `split` took apart; tuples come back as lists.

    Raises:
        CheckpointError: a tensor that the plain part names is not there.
    """
    if isinstance(plain, Mapping):
        if _TENSOR in plain:
            name = str(plain[_TENSOR])
            if name not in tensors:
                raise CheckpointError(f"The state names a tensor '{name}' that is not there.")
            return tensors[name]
        return {key: join(tensors, value) for key, value in plain.items()}
    if isinstance(plain, Sequence) and not isinstance(plain, str):
        return [join(tensors, value) for value in plain]
    return plain

"""Config of a `BEMModel`: base, adapters by kind, hints and modes. It builds nothing."""

from __future__ import annotations

import os
import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from bem.errors import InvalidInputError
from bem.interfaces import AdapterConfig
from bem.registry import adapter_kinds, make_config

AdapterFields = dict[str, JsonValue]
"""`kind`, the adapter's folder name in `bem/adapters`, and the fields of its config."""
_DEFAULT: dict[str, AdapterFields] = {"bem": {"kind": "generated"}}
_NAME = re.compile(r"[\w\-]+")


class BEMConfig(BaseModel):
    """What a `BEMModel` is made of.

    Raises:
        pydantic.ValidationError (a ValueError): an unknown field, kind or field of an adapter; the
            message lists the known ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    """Hub id or folder of a Hugging Face causal language model."""
    adapters: dict[str, AdapterFields] = Field(default_factory=lambda: dict(_DEFAULT))
    """Adapters by name: {"skill": {"kind": "generated", "rank": 8}}, built in this order. Those
    that mix others (`experts`) come after them."""
    active: tuple[str, ...] | None = None
    """Names of the adapters that act, in order; None: all of them."""
    hints: tuple[str, ...] = ()
    """Names of context hints; each is an embedding that training learns."""
    modes: tuple[str, ...] = ()
    """Names of behavioural modes; an input has at most one."""
    embedding_size: int = Field(default=8, ge=1)
    """Entries of the embedding of a hint, and of a mode."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the base's weights."""
    seed: int = Field(default=0, ge=0)
    """Of the weights that new adapters and embeddings start from."""

    @field_validator("base", mode="before")
    @classmethod
    def _as_text(cls, base: object) -> object:
        return os.fspath(base) if isinstance(base, os.PathLike) else base

    @field_validator("hints", "modes")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names) or "" in names:
            raise ValueError(f"names must differ and not be empty, got {', '.join(names)}")
        return names

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in self.adapters:
            require_name(name)
            self.adapter_config(name)
        unknown = [name for name in self.active or () if name not in self.adapters]
        if unknown:
            known = ", ".join(self.adapters) or "none"
            raise ValueError(f"active names '{unknown[0]}'. Adapters: {known}")
        return self

    @property
    def side_size(self) -> int:
        """Side signals that hints and modes make: an embedding of each, or none at all."""
        return 2 * self.embedding_size if self.hints or self.modes else 0

    def adapter_config(self, name: str) -> AdapterConfig:
        """The config of one adapter, with room for the embeddings where it reads side signals.

        Raises:
            InvalidInputError: the kind or a field is unknown.
        """
        fields = dict(self.adapters[name])
        kind = fields.pop("kind", None)
        if not isinstance(kind, str):
            raise InvalidInputError(
                f"Adapter '{name}' has no kind. Known: {', '.join(adapter_kinds())}."
            )
        config = make_config(kind, **fields)
        if not config.reads_side or "side_size" in fields:
            return config
        return make_config(kind, **fields, side_size=self.side_size)


def require_name(name: str) -> None:
    """Raise InvalidInputError unless `name` can name an adapter, and its folder."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"Adapter name '{name}': use letters, digits, '_' and '-' only; it names a folder too."
        )

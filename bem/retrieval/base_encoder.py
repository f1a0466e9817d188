"""A text encoder out of a frozen base: the mean of its hidden states, centred, through a head.

The mean is over real tokens of one layer. Means of a language model's states point almost the same
way; `centred_on` takes the common part off. The head, a D to E map, is what `contrastive` trains.
Adapters never act here: an index does not change with the adapter that reads it.

Legend: N texts, T positions, D hidden size, E coordinates of a vector.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
import torch

from bem.base import BaseModel
from bem.context import RoutingContext
from bem.data import pad_id_of
from bem.errors import InvalidInputError
from bem.evaluate import buckets
from bem.injection import AdapterHost
from bem.retrieval.interfaces import FloatArray, TextEncoder, unit_rows


class BaseEncoder(TextEncoder):
    """Texts to unit vectors by a base; give the AdapterHost where one holds the base."""

    kind: ClassVar[str] = "base"

    def __init__(
        self,
        source: BaseModel | AdapterHost,
        *,
        layer: int = -1,
        mean_D: FloatArray | None = None,
        head_ED: FloatArray | None = None,
    ) -> None:
        """`layer` counts from 0, the embeddings; -1 is the last, normed."""
        self._host = source if isinstance(source, AdapterHost) else None
        self.base = source.base if isinstance(source, AdapterHost) else source
        states, hidden = len(self.base.layers) + 1, self.base.hidden_size
        if not -states <= layer < states:
            raise InvalidInputError(
                f"BaseEncoder: layer {layer} is not in -{states}..{states - 1}."
            )
        self.layer = layer % states
        self.mean_D = np.zeros(hidden, dtype=np.float32) if mean_D is None else mean_D
        self.head_ED = head_ED
        self.dim = hidden if head_ED is None else head_ED.shape[0]
        if self.mean_D.shape != (hidden,) or (head_ED is not None and head_ED.shape[1] != hidden):
            raise InvalidInputError(f"BaseEncoder: mean or head do not fit a base of {hidden}.")

    @property
    def source(self) -> BaseModel | AdapterHost:
        """What it was built on."""
        return self.base if self._host is None else self._host

    @property
    def settings(self) -> dict[str, Any]:
        """What a saved index must agree with."""
        return {"layer": self.layer, "base_digest": self.base.digest}

    def tensors(self) -> dict[str, FloatArray]:
        """What it has learned."""
        learned = {"mean_D": self.mean_D}
        return learned if self.head_ED is None else learned | {"head_ED": self.head_ED}

    def encode(self, texts: Sequence[str], *, titles: int = 1) -> FloatArray:
        """Unit vectors (N, E); the base reads word order by itself, so `titles` says nothing."""
        f_ND = self.features(texts)
        return unit_rows(f_ND if self.head_ED is None else f_ND @ self.head_ED.T)

    def features(self, texts: Sequence[str]) -> FloatArray:
        """What the head reads: centred means of hidden states, (N, D), of unit length."""
        return unit_rows(self._means(texts) - self.mean_D)

    def centred_on(self, texts: Sequence[str]) -> BaseEncoder:
        """The same encoder with the mean over these texts taken off."""
        mean_D = self._means(texts).mean(axis=0)
        return BaseEncoder(self.source, layer=self.layer, mean_D=mean_D, head_ED=self.head_ED)

    def with_head(self, head_ED: FloatArray) -> BaseEncoder:
        """The same encoder with another head."""
        return BaseEncoder(self.source, layer=self.layer, mean_D=self.mean_D, head_ED=head_ED)

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, FloatArray], source: Any
    ) -> Self:
        if not isinstance(source, BaseModel | AdapterHost):
            raise InvalidInputError(
                "This index was encoded by a base: give it, or its AdapterHost, as `source`."
            )
        base = source.base if isinstance(source, AdapterHost) else source
        if settings["base_digest"] != base.digest:
            raise InvalidInputError(
                f"This index was encoded by another base: digest {settings['base_digest'][:12]}, "
                f"base '{base.ref}' has {base.digest[:12]}."
            )
        head_ED = tensors.get("head_ED")
        return cls(source, layer=settings["layer"], mean_D=tensors["mean_D"], head_ED=head_ED)

    @torch.inference_mode()
    def _means(self, texts: Sequence[str]) -> FloatArray:
        tokenizer, device = self.base.tokenizer, self.base.device
        ids = tokenizer(list(texts))["input_ids"]
        if empty := [i for i, row in enumerate(ids) if not row]:
            raise InvalidInputError(f"BaseEncoder: text {empty[0]} has no token.")
        means_ND = np.zeros((len(ids), self.base.hidden_size), dtype=np.float32)
        with self._alone():
            for index in buckets([len(row) for row in ids], 4096):
                width = max(len(ids[i]) for i in index)
                tokens_BT = torch.full((len(index), width), pad_id_of(tokenizer), device=device)
                mask_BT = torch.zeros((len(index), width), dtype=torch.long, device=device)
                for row, i in enumerate(index):
                    tokens_BT[row, : len(ids[i])] = torch.tensor(ids[i], device=device)
                    mask_BT[row, : len(ids[i])] = 1
                out = self.base.decoder(
                    input_ids=tokens_BT,
                    attention_mask=mask_BT,
                    use_cache=False,
                    output_hidden_states=True,
                )
                h_BTD = out.hidden_states[self.layer].float() * mask_BT.unsqueeze(-1)
                means_BD = h_BTD.sum(1) / mask_BT.sum(1, keepdim=True)
                means_ND[index] = means_BD.cpu().numpy()
        return means_ND

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The base without its adapters, whatever is selected."""
        if self._host is None:
            if self.base.hosted:
                raise InvalidInputError(
                    f"Base '{self.base.ref}' carries an AdapterHost, whose adapters would encode "
                    "with it: build the BaseEncoder on the host."
                )
            yield
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._host.aside())
            stack.enter_context(self._host.routing(RoutingContext(adapters=())))
            yield

"""Documents of mission D: key-value contexts whose answers mostly follow a lexical prior.

A document lists pairs `key-value` and then asks for some of them. A value equals f(key), a fixed
one-to-one map, with the shortcut rate, so a model may learn f by heart instead of reading the
context. Symbols are single tokens, which lets a vocabulary permutation scramble a
document exactly. Knows the tokenizer, no model.

Shapes: N documents, T tokens, P pairs, Q queries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from missions.data.schemas import SCHEMAS
from missions.data.splits import hash_unit
from missions.errors import MissionError
from missions.scramble_pretraining.params import CorpusParams

_SYLLABLE = re.compile(r"[bdfghjklmnprstvz][aeiou]")
_WORD = re.compile(r"[a-z]{3,6}")
_FIELD_WORDS = frozenset(
    word for schema in SCHEMAS.values() for field in schema.fields for word in field.path.split(".")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Symbol tokens of one kind: those that may be trained on, and those that never are."""

    seen: tuple[int, ...]
    heldout: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbols:
    """Keys, values and the lexical prior f."""

    keys: Pool
    values: Pool
    prior: dict[int, int]
    """f: seen key -> seen value, one to one: the shortcut."""

    @property
    def heldout(self) -> tuple[int, ...]:
        """Every symbol that no training stream may contain."""
        return self.keys.heldout + self.values.heldout

    @property
    def groups(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What a scrambling bijection permutes: seen keys, seen values."""
        return self.keys.seen, self.values.seen


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """Equally long documents."""

    ids_NT: Tensor
    prefix_T: Tensor
    """True over the context (bos and pairs), False from the first query on."""
    answers_Q: Tensor
    """Positions of the answer tokens."""
    keys_NQ: Tensor
    """The key asked for by each query."""

    def __len__(self) -> int:
        return int(self.ids_NT.shape[0])

    def take(self, index: slice | Tensor) -> Documents:
        """Some of the documents."""
        return Documents(
            ids_NT=self.ids_NT[index],
            prefix_T=self.prefix_T,
            answers_Q=self.answers_Q,
            keys_NQ=self.keys_NQ[index],
        )


def choose_symbols(tokenizer: Any, params: CorpusParams, rng: np.random.Generator) -> Symbols:
    """Keys and values from the vocabulary, divided into seen and held out by hash of their text.

    Raises:
        MissionError: if the tokenizer has too few fitting tokens.
    """
    special = set(tokenizer.all_special_ids)
    vocabulary = {t: i for t, i in tokenizer.get_vocab().items() if i not in special}
    syllables = [text for text in vocabulary if _SYLLABLE.fullmatch(text)]
    words = [text for text in vocabulary if _WORD.fullmatch(text)]
    fields = [text for text in words if text in _FIELD_WORDS]
    keys = _pool("num_keys", params.num_keys, fields, words, vocabulary, params)
    taken = {*keys.seen, *keys.heldout}
    others = [text for text in words if vocabulary[text] not in taken]
    values = _pool("num_values", params.num_values, syllables, others, vocabulary, params)
    if len(values.seen) < len(keys.seen):
        raise MissionError(
            f"corpus.num_values: {len(values.seen)} seen values; f is one to one and needs at "
            f"least as many as the {len(keys.seen)} seen keys."
        )
    images = rng.permutation(np.array(values.seen))[: len(keys.seen)]
    prior = {key: int(image) for key, image in zip(keys.seen, images, strict=True)}
    return Symbols(keys=keys, values=values, prior=prior)


def _pool(
    field: str,
    count: int,
    preferred: Sequence[str],
    others: Sequence[str],
    vocabulary: Mapping[str, int],
    params: CorpusParams,
) -> Pool:
    def ranked(texts: Sequence[str]) -> list[str]:
        return sorted(texts, key=lambda text: hash_unit(text, "symbols"))

    candidates = list(dict.fromkeys([*ranked(preferred), *ranked(others)]))
    if len(candidates) < count:
        raise MissionError(
            f"corpus.{field}: {count} symbols asked, the tokenizer has {len(candidates)} fitting "
            "tokens."
        )
    tokens = [vocabulary[text] for text in ranked(candidates[:count])]
    num_heldout = round(params.heldout_share * count)
    if min(num_heldout, count - num_heldout) < params.pairs:
        raise MissionError(
            f"corpus.{field}: {num_heldout} held-out and {count - num_heldout} seen symbols "
            f"cannot fill {params.pairs} pairs."
        )
    return Pool(seen=tuple(tokens[num_heldout:]), heldout=tuple(tokens[:num_heldout]))


class DocumentFactory:
    """Draws documents of one shape."""

    def __init__(self, tokenizer: Any, symbols: Symbols, params: CorpusParams) -> None:
        if params.queries > params.pairs:
            raise MissionError(
                f"corpus.queries: {params.queries}; at most corpus.pairs = {params.pairs}."
            )
        self._symbols = symbols
        self._params = params
        self._template_T, self._slots = _template(tokenizer, symbols.keys.seen[0], params)

    def draw(
        self, count: int, rng: np.random.Generator, *, shortcut_rate: float, heldout: bool = False
    ) -> Documents:
        """`count` fresh documents.

        Args:
            count: number of documents.
            rng: source of every draw.
            shortcut_rate: probability that a value is f(key); elsewhere it is another symbol.
            heldout: keys and values from the held-out symbols, for which f does not exist.
        """
        params = self._params
        symbols = self._symbols
        keys = np.array(symbols.keys.heldout if heldout else symbols.keys.seen)
        values = np.array(symbols.values.heldout if heldout else symbols.values.seen)
        order_NS = rng.random((count, len(keys))).argsort(axis=1)
        keys_NP = keys[order_NS[:, : params.pairs]]
        values_NP = values[rng.integers(len(values), size=keys_NP.shape)]
        if not heldout:
            prior_NP = np.vectorize(symbols.prior.__getitem__)(keys_NP)
            # A value that is not to follow f is drawn again until it differs from f(key).
            while (clash := values_NP == prior_NP).any():
                values_NP[clash] = values[rng.integers(len(values), size=int(clash.sum()))]
            follow_NP = rng.random(keys_NP.shape) < shortcut_rate
            values_NP = np.where(follow_NP, prior_NP, values_NP)
        asked_NQ = rng.random(keys_NP.shape).argsort(axis=1)[:, : params.queries]
        asked_keys_NQ = np.take_along_axis(keys_NP, asked_NQ, axis=1)
        answers_NQ = np.take_along_axis(values_NP, asked_NQ, axis=1)
        pairs = np.stack([keys_NP, values_NP], axis=2).reshape(count, -1)
        queries = np.stack([asked_keys_NQ, answers_NQ], axis=2).reshape(count, -1)
        ids_NT = np.tile(self._template_T, (count, 1))
        ids_NT[:, self._slots] = np.concatenate([pairs, queries], axis=1)
        first_query = int(self._slots[2 * params.pairs])
        return Documents(
            ids_NT=torch.from_numpy(ids_NT),
            prefix_T=torch.arange(ids_NT.shape[1]) < first_query - 1,
            answers_Q=torch.from_numpy(self._slots[2 * params.pairs + 1 :: 2].copy()),
            keys_NQ=torch.from_numpy(asked_keys_NQ),
        )

    def prior_of(self, keys_NQ: Tensor) -> Tensor:
        """f of every key; -1 where a key is held out and f is not defined."""
        table = self._symbols.prior
        return torch.tensor([[table.get(int(key), -1) for key in row] for row in keys_NQ])


def _template(
    tokenizer: Any, symbol: int, params: CorpusParams
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Token ids of a document with every slot at `symbol`, and the slots' positions in order."""

    def text_ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    dash, space, line, ask, gives = (text_ids(t) for t in ("-", " ", "\n", "?", "="))
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    ids, slots = list(start), []
    for pair in range(params.pairs):
        slots.append(len(ids))
        ids += [symbol, *dash]
        slots.append(len(ids))
        ids += [symbol, *(space if pair < params.pairs - 1 else line)]
    for _ in range(params.queries):
        ids += ask
        slots.append(len(ids))
        ids += [symbol, *gives]
        slots.append(len(ids))
        ids += [symbol, *line]
    return np.array(ids), np.array(slots)

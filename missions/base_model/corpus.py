"""The base model's training stream: train items as token rows with loss weights, in length buckets.

Documents are unpacked: one item a row (sometimes two turns), padded to its bucket's length. The
prompt weighs 0.1 in the loss and the answer 1: what can be predicted is what is learned. Noise
(foreign prefixes, invented field names, random tokens to copy) keeps the skills independent of the
words, so that an adapter can bend them. Nothing here knows the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from missions.data.names import ONSETS, VOWELS, names_of, sample_name, sample_names
from missions.data.schemas import SCHEMAS
from missions.data.splits import normal_words
from missions.data.tasks import TaskItem, stream
from missions.data.tokenizer import MISSION_TOKENS

#: Row lengths that a batch may have; longer documents are left out.
BUCKETS = (16, 32, 48, 72, 104, 160)
PROMPT_WEIGHT = 0.1

COPY_FIRST: Mapping[str, float] = {
    "copy_name": 0.3,
    "copy_list": 0.3,
    "copy_value": 0.15,
    "induction": 0.25,
}
MIXTURE: Mapping[str, float] = {
    "copy_name": 0.04,
    "copy_list": 0.05,
    "copy_value": 0.05,
    "lookup": 0.09,
    "retrieve": 0.13,
    "compare": 0.05,
    "compare_named": 0.08,
    "add": 0.13,
    "sort_numbers": 0.06,
    "sort_names": 0.08,
    "json": 0.07,
    "summary": 0.05,
    "induction": 0.05,
    "tag": 0.06,
    "closed_book": 0.06,
}
#: The last phase: what is learned late gets most of the stream.
HARD_MIXTURE: Mapping[str, float] = {
    "copy_name": 0.01,
    "copy_list": 0.01,
    "copy_value": 0.015,
    "lookup": 0.05,
    "retrieve": 0.2,
    "retrieve_many": 0.15,
    "compare": 0.05,
    "compare_named": 0.1,
    "add": 0.13,
    "sort_numbers": 0.06,
    "sort_names": 0.06,
    "json": 0.05,
    "summary": 0.02,
    "induction": 0.07,
    "tag": 0.03,
    "closed_book": 0.02,
}
#: Share of copies of random tokens: alone at first, for nothing else teaches a tiny model to look
#: back as fast (repeated names can be half guessed from the set of their syllables).
RANDOM_COPY_SHARE = 0.05
RANDOM_KEYS_SHARE = 0.2
NAME_KEYS_SHARE = 0.4
FOREIGN_PREFIX_SHARE = 0.12
RENAMED_FIELDS_SHARE = 0.15
TWO_TURNS_SHARE = 0.08
NO_BOS_SHARE = 0.1

_FIELD_WORDS = frozenset(
    word for schema in SCHEMAS.values() for field in schema.fields for word in field.path.split(".")
)
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows of one bucket. `weight_BT[b, t]` weighs the prediction of token t (0 on padding)."""

    ids_BT: npt.NDArray[np.int64]
    weight_BT: npt.NDArray[np.float32]


def rename_fields(rng: np.random.Generator, item: TaskItem) -> TaskItem:
    """Replace some field words by train names, alike in prompt and target."""
    words = sorted(_FIELD_WORDS.intersection(_WORD.findall(item.prompt)))
    new = {word: sample_name(rng, "train") for word in words if rng.integers(2)}
    if not new:
        return item

    def swap(text: str) -> str:
        return _WORD.sub(lambda match: new.get(match.group(), match.group()), text)

    return replace(item, prompt=swap(item.prompt), target=swap(item.target))


def foreign_prefix(rng: np.random.Generator) -> str:
    """Words in front of a prompt that change nothing: a mark or a name in some bracket."""
    if rng.integers(2):
        word = MISSION_TOKENS[int(rng.integers(len(MISSION_TOKENS)))]
    else:
        word = sample_name(rng, "train")
    form = ("{} ", "[{}] ", "{}: ", "({}) ", "{}")[int(rng.integers(5))]
    return form.replace("{}", word)


class Corpus:
    """Endless batches of train documents for a tokenizer, from one generator."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator) -> None:
        self._tokenizer = tokenizer
        self._rng = rng
        self._held_out = {*names_of("dev"), *names_of("test")}
        self._syllables = tokenizer.convert_tokens_to_ids([a + b for a in ONSETS for b in VOWELS])
        self._digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
        first_free = min(tokenizer.convert_tokens_to_ids(list(MISSION_TOKENS)))
        self._every = range(first_free, len(tokenizer))

    def _random_copy(self) -> tuple[list[int], list[int]]:
        """A copy of 2 to 24 random tokens, any token of the vocabulary but pad, bos, eos."""
        rng = self._rng
        body = self._clean(self._every, int(rng.integers(2, 25)))
        tag = ("copy: ", "echo ", "[say] ")[int(rng.integers(3))]
        head, tail = self._encode([tag, "\n"])
        return [*head, *body, *tail], body

    def _clean(self, pool: Sequence[int], length: int) -> list[int]:
        """`length` tokens of the pool that spell no held-out name."""
        while True:
            ids = [pool[int(i)] for i in self._rng.integers(len(pool), size=length)]
            if self._held_out.isdisjoint(normal_words(self._tokenizer.decode(ids))):
                return ids

    def _random_pairs(self) -> tuple[list[int], list[int]]:
        """`get K: k1 f v1; k2 f v2; ...`: 2 to 6 keys that are random tokens, syllables or names.

        From several records of names alone the model picks one at random for 38 M tokens. Keys of
        one random token are learnt within 0.4 M, and syllables lead from these to names.
        """
        rng = self._rng
        count, kind = int(rng.integers(2, 7)), rng.random()
        key_pool = self._every if kind < RANDOM_KEYS_SHARE else self._syllables
        key_length = int(rng.integers(1, 4 if kind < RANDOM_KEYS_SHARE else 3))
        value_pool = (self._every, self._syllables, self._digits)[int(rng.integers(3))]
        value_length = int(rng.integers(1, 3))
        if kind < 1.0 - NAME_KEYS_SHARE:
            distinct: dict[tuple[int, ...], None] = {}
            while len(distinct) < count:
                distinct.setdefault(tuple(self._clean(key_pool, key_length)))
            keys = [list(key) for key in distinct]
        else:
            keys = self._encode(list(sample_names(rng, "train", count)))
        values = [self._clean(value_pool, value_length) for _ in range(count)]
        tag, close, space, between, field, end = self._encode(
            ["get ", ": ", " ", "; ", f" {sample_name(rng, 'train')} ", "\n"]
        )
        inner = field if rng.integers(2) else space
        wanted = int(rng.integers(count))
        prompt = [*tag, *keys[wanted], *close]
        for number in range(count):
            prompt += [*(between if number else []), *keys[number], *inner, *values[number]]
        return [*prompt, *end], values[wanted]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        rows: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return rows

    def documents(
        self,
        weights: Mapping[str, float],
        count: int,
        random_share: float,
        pairs_share: float,
    ) -> Iterator[list[list[int]]]:
        """`count` documents as alternating segments: prompt, answer (with eos), prompt, ...."""
        rng = self._rng
        items = stream(rng, "train", weights)
        eos = self._tokenizer.eos_token_id
        bos = self._tokenizer.bos_token_id
        texts: list[str] = []
        for _ in range(count * 2):
            item = next(items)
            if rng.random() < RENAMED_FIELDS_SHARE:
                item = rename_fields(rng, item)
            prefix = foreign_prefix(rng) if rng.random() < FOREIGN_PREFIX_SHARE else ""
            texts.extend((prefix + item.prompt, item.target))
        rows = self._encode(texts)
        position = 0
        for _ in range(count):
            turns = 2 if rng.random() < TWO_TURNS_SHARE else 1
            segments: list[list[int]] = []
            for _ in range(turns):
                draw = rng.random()
                if draw < random_share:
                    prompt, answer = self._random_copy()
                elif draw < random_share + pairs_share:
                    prompt, answer = self._random_pairs()
                else:
                    prompt, answer = rows[position], rows[position + 1]
                    position += 2
                segments.extend((prompt, [*answer, eos]))
            if rng.random() >= NO_BOS_SHARE:
                segments[0] = [bos, *segments[0]]
            yield segments

    def batches(
        self,
        weights: Mapping[str, float],
        *,
        tokens_per_batch: int,
        random_share: float = RANDOM_COPY_SHARE,
        pairs_share: float = 0.0,
        pool: int = 2048,
    ) -> list[Batch]:
        """Full batches out of a pool of fresh documents, in random order.

        A row of length L goes to the smallest bucket >= L; a bucket's rows that do not fill a
        batch are dropped (their items were drawn at random, so nothing is missed for good).
        """
        by_bucket: dict[int, list[list[list[int]]]] = {size: [] for size in BUCKETS}
        for segments in self.documents(weights, pool, random_share, pairs_share):
            length = sum(map(len, segments))
            for size in BUCKETS:
                if length <= size:
                    by_bucket[size].append(segments)
                    break
        out: list[Batch] = []
        for size, documents in by_bucket.items():
            rows = tokens_per_batch // size
            for start in range(0, len(documents) - rows + 1, rows):
                out.append(self._pad(documents[start : start + rows], size))
        order = self._rng.permutation(len(out))
        return [out[int(i)] for i in order]

    def _pad(self, documents: list[list[list[int]]], size: int) -> Batch:
        ids_BT = np.full((len(documents), size), self._tokenizer.pad_token_id, dtype=np.int64)
        weight_BT = np.zeros((len(documents), size), dtype=np.float32)
        for row, segments in enumerate(documents):
            at = 0
            for number, segment in enumerate(segments):
                end = at + len(segment)
                ids_BT[row, at:end] = segment
                weight_BT[row, at:end] = 1.0 if number % 2 else PROMPT_WEIGHT
                at = end
        return Batch(ids_BT=ids_BT, weight_BT=weight_BT)

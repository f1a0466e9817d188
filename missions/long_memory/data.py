"""Test and dev streams of mission E: made once, stored as bytes, the same for all arms and seeds.

The streams of one split share their facts and their last section at every length; only the noise
between grows. So a score at 131,072 tokens is paired with the same questions at 512. Training
streams are drawn as training goes and are not stored. Knows no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from bem.checkpoint import write_durably
from missions.data.splits import Split
from missions.errors import MissionError
from missions.long_memory.params import LongMemoryParams
from missions.long_memory.streams import Bytes, Ints, StreamFactory, Streams
from missions.seeding import numpy_generator
from missions.spec import MissionSpec


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TestSet:
    """The streams of one split at every length."""

    loads: tuple[str, ...]
    """Name of each stream's load."""
    ids: tuple[str, ...]
    """Id of each stream, the same at every length."""
    facts_B: Ints
    tokens: dict[int, Bytes]
    """Length -> (B, length)."""

    __test__ = False

    def digest(self) -> str:
        """sha256 of everything above."""
        sha = hashlib.sha256("\n".join(self.ids).encode())
        for length, ids_BT in sorted(self.tokens.items()):
            sha.update(f"{length} {ids_BT.shape}".encode())
            sha.update(np.ascontiguousarray(ids_BT).tobytes())
        return sha.hexdigest()


def make_test_set(
    factory: StreamFactory,
    params: LongMemoryParams,
    *,
    split: Split,
    count: int,
    data_seed: int,
) -> TestSet:
    """`count` streams, spread evenly over the loads.

    Raises:
        MissionError: if `count` is no multiple of the number of loads.
    """
    loads, ids, facts_B = _labels(params, split, count)
    kernels = factory.kernels(numpy_generator(data_seed, "E", split, "kernels"), facts_B, split)
    tokens = {
        length: factory.expand(
            numpy_generator(data_seed, "E", split, length), kernels, length, split
        ).ids_BT
        for length in params.evaluation.all_lengths
    }
    return TestSet(loads=loads, ids=ids, facts_B=facts_B, tokens=tokens)


def training_batch(
    factory: StreamFactory, params: LongMemoryParams, rng: np.random.Generator, step: int
) -> Streams:
    """The training streams of one step; lengths take turns, facts stand anywhere."""
    train, stream = params.train, params.stream
    length = train.lengths[step % len(train.lengths)]
    most = min(train.max_facts, length // 3 - stream.tail_units)
    facts_B = rng.integers(train.min_facts, most + 1, size=train.batch)
    kernels = factory.kernels(rng, facts_B, "train")
    return factory.expand(rng, kernels, length, "train", reach=rng.uniform(0.25, 1.0))


def leaked_pairs(factory: StreamFactory, training: Iterable[Streams], test: TestSet) -> int:
    """How many pairs that the test asks to remember stand in training streams, in any role."""
    shortest = min(test.tokens)
    asked = factory.pairs(test.tokens[shortest], marks="fact")
    seen: set[tuple[int, int]] = set()
    for streams in training:
        seen |= factory.pairs(streams.ids_BT)
    return len(asked & seen)


def training_rng(seed: int) -> np.random.Generator:
    """The stream of a seed's training batches: the same batches for every arm."""
    return numpy_generator(seed, "E", "training")


def save_test_set(test: TestSet, path: Path) -> None:
    """Writes the tokens; ids and loads follow from the specification."""
    arrays = {f"{length:07d}": ids_BT for length, ids_BT in test.tokens.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, save_arrays(arrays))


def load_test_set(path: Path, params: LongMemoryParams, *, split: Split, count: int) -> TestSet:
    """What `save_test_set` wrote under the same parameters."""
    loads, ids, facts_B = _labels(params, split, count)
    tokens = {int(name): array for name, array in load_arrays(path.read_bytes()).items()}
    return TestSet(loads=loads, ids=ids, facts_B=facts_B, tokens=tokens)


def factory_of(spec: MissionSpec, params: LongMemoryParams) -> StreamFactory:
    """The vocabulary and phrases of a specification."""
    return StreamFactory(params.stream, data_seed=spec.data_seed)


def _labels(
    params: LongMemoryParams, split: Split, count: int
) -> tuple[tuple[str, ...], tuple[str, ...], Ints]:
    """Load, id and number of facts of each stream."""
    loads = params.evaluation.loads
    if count % len(loads):
        raise MissionError(
            f"examples.{split}: {count} streams cannot be spread evenly over {len(loads)} loads."
        )
    each = count // len(loads)
    names = tuple(name for name in loads for _ in range(each))
    ids = tuple(f"{split}-{name}-{index:03d}" for name in loads for index in range(each))
    return names, ids, np.array([loads[name] for name in names])

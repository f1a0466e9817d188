"""Settings of mission E, as they stand under `params:` in mission.yaml."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bem.memory import GateConfig, StoreConfig

LONG = 524288


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamParams(_Strict):
    """What a stream is made of. Every unit is three tokens."""

    keys: int = Field(default=96, ge=8)
    values: int = Field(default=64, ge=10)
    fact_marks: int = Field(default=8, ge=1)
    """Marks that say: the pair that follows is a fact."""
    decoy_marks: int = Field(default=8, ge=1)
    """Marks before pairs that are no facts."""
    filler: int = Field(default=64, ge=4)
    phrases: int = Field(default=96, ge=4)
    """Fixed three-token phrases that fill the stream."""
    decoy_share: float = Field(default=0.25, ge=0, le=1)
    """Share of decoys among the units that are neither fact nor query."""
    queries: int = Field(default=12, ge=1)
    """Facts asked for at the end of a stream, each once."""
    tail_units: int = Field(default=21, ge=1)
    """Units of the last section, which holds the queries."""

    @model_validator(mode="after")
    def _consistent(self) -> StreamParams:
        if self.queries > self.tail_units:
            raise ValueError(f"queries is {self.queries}; at most tail_units = {self.tail_units}")
        if self.vocab > 256:
            raise ValueError(
                f"{self.vocab} tokens in all; streams are stored as bytes, at most 256"
            )
        return self

    @property
    def vocab(self) -> int:
        """Start token, query mark, marks, keys, values, filler."""
        marks = self.fact_marks + self.decoy_marks
        return 2 + marks + self.keys + self.values + self.filler


class ModelParams(_Strict):
    """The part of the model that all arms share."""

    width: int = Field(default=64, ge=8)
    heads: int = Field(default=2, ge=1)
    blocks: int = Field(default=2, ge=1)
    mlp_ratio: int = Field(default=4, ge=1)
    chunk: int = Field(default=64, ge=4)


class TrainParams(_Strict):
    """Training, the same for every arm."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)
    gate_lr_factor: float = Field(default=1.0, gt=0)
    lengths: tuple[int, ...] = Field(min_length=1)
    """Lengths of the training streams, taken in turn."""
    min_facts: int = Field(default=4, ge=1)
    max_facts: int = Field(default=40, ge=1)
    filler_weight: float = Field(default=0.1, ge=0)
    """Weight of all other tokens of the last section in the loss; answers weigh 1."""


class EvaluationParams(_Strict):
    """Where the trained arms are tested."""

    lengths: tuple[int, ...] = Field(min_length=1)
    include_512k: bool = False
    """Adds 524,288 tokens."""
    loads: dict[str, int] = Field(min_length=1)
    """Name of a load -> facts in a stream."""
    batch: int = Field(default=12, ge=1)
    """Streams evaluated together."""

    @property
    def all_lengths(self) -> tuple[int, ...]:
        """Lengths with the flag's applied."""
        return (*self.lengths, LONG) if self.include_512k else self.lengths


class LongMemoryParams(_Strict):
    """All settings of mission E."""

    stream: StreamParams = StreamParams()
    model: ModelParams = ModelParams()
    train: TrainParams
    evaluation: EvaluationParams
    bytes_tolerance: float = Field(default=0.02, gt=0, le=0.05)
    """Largest relative difference of persistent memory bytes between any two arms."""
    trained_floor: float = Field(default=0.9, gt=0, le=1)
    """An arm under this at the shortest length and lightest load failed to train."""

    @model_validator(mode="after")
    def _consistent(self) -> LongMemoryParams:
        heaviest = max(*self.evaluation.loads.values(), self.train.max_facts)
        shortest = min(*self.evaluation.all_lengths, *self.train.lengths)
        tail = 3 * self.stream.tail_units
        if tail > self.model.chunk:
            raise ValueError(
                f"stream.tail_units: {tail} tokens; the last section must fit one chunk "
                f"of {self.model.chunk}"
            )
        for length in (*self.evaluation.all_lengths, *self.train.lengths):
            if length % self.model.chunk:
                raise ValueError(f"length {length} is no multiple of chunk {self.model.chunk}")
        if min(self.evaluation.loads.values()) < self.stream.queries:
            raise ValueError(
                f"evaluation.loads: the lightest holds fewer facts than queries = "
                f"{self.stream.queries}"
            )
        if heaviest > min(self.stream.keys, shortest // 3 - self.stream.tail_units):
            raise ValueError(f"{heaviest} facts do not fit a stream of {shortest} tokens")
        return self


class ArmParams(_Strict):
    """Settings of one arm."""

    store: StoreConfig
    gate: GateConfig = GateConfig()
    gate_penalty: float = Field(default=0.0, ge=0)
    """Weight of the mean gate in the loss; tuned for each store with equal effort."""

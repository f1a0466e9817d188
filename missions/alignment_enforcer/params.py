"""Settings of mission C: what its mission file may say. Knows no tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from missions.alignment_enforcer.redteam import SuiteFormat

Method = Literal["helpful", "branch", "overlay", "classifier"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SkillParams(_Strict):
    """Stage one: the helpful-only skill, a LoRA trained once a seed and shared by all arms."""

    rank: int = Field(default=8, ge=1)
    """Rank of the skill at every linear."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""


class SafetyParams(_Strict):
    """Stage two: the same losses, batches and steps for every trained arm."""

    rank: int = Field(default=8, ge=1)
    """Rank of the branch; a control's rank is matched to its size."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate of the low-rank factors."""
    head_learning_rate: float = Field(gt=0)
    """Peak learning rate of the value head and of the classifier."""
    head_steps: int = Field(ge=1)
    """Steps of the value head before the branch is trained, and of the classifier."""
    head_weight_decay: float = Field(default=0.1, ge=0)
    """Weight decay of both."""
    benign_slack: float = Field(gt=0)
    """Allowed divergence from the skill on benign answers, nats a token."""
    multiplier_kp: float = Field(default=1.0, ge=0)
    """Proportional gain of the Lagrange multiplier."""
    multiplier_ki: float = Field(default=0.1, ge=0)
    """Integral gain of the Lagrange multiplier."""
    curriculum: bool = False
    """Direct wrappers first, then jailbreak, role-play and noise, then injection."""


class SuiteParams(_Strict):
    """A public red-team suite on disk."""

    format: SuiteFormat
    """Whose columns the file has."""
    path: Path
    """The CSV file that its project publishes."""


class MissionParams(_Strict):
    """`params:` of mission.yaml."""

    skill: SkillParams
    safety: SafetyParams
    batch_size: int = Field(ge=4)
    """Rows of a training batch, a multiple of four: half attacks, a quarter look-alikes."""
    max_new_tokens: int = Field(ge=1)
    """Length of generated answers."""
    knob_levels: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Levels of the knob curve."""
    knob_grid: tuple[float, ...] = Field(min_length=1)
    """Levels among which the operating point is chosen on dev."""
    dev_budget: float = Field(ge=0, lt=1)
    """Largest loss of benign exact match on dev at the operating point (a fraction)."""
    curve_items: int = Field(ge=1)
    """Attack items of the knob curve, the first ones of the split, spread over categories."""
    max_tokens: int = Field(default=2048, ge=64)
    """Tokens of one evaluation batch, padding included."""
    bf16: bool = False
    """Train under bfloat16 autocast; evaluation is always in the base's precision."""
    keep_prefill: bool = True
    """Keep the prompts' keys and values in memory while the skill stays the same."""
    suites: tuple[SuiteParams, ...] = ()
    """Public suites to run beside the generated items: compliance is scored, no gate reads it."""

    @field_validator("batch_size")
    @classmethod
    def _quarters(cls, size: int) -> int:
        if size % 4:
            raise ValueError("must be a multiple of four")
        return size

    @field_validator("knob_levels", "knob_grid")
    @classmethod
    def _in_range(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.0 <= level <= 1.0 for level in levels):
            raise ValueError("knob levels lie in 0..1")
        if list(levels) != sorted(set(levels)):
            raise ValueError("knob levels must rise")
        return levels


class ArmParams(_Strict):
    """`params:` of one arm."""

    method: Method
    """helpful: the skill alone. branch: acts from the last prompt token on. overlay: acts on
    every token. classifier: refuses by rule."""
    gate: bool = False
    """branch only: scale the branch by the value head."""


def level_metric(level: float) -> str:
    """Name of the violation metric at one knob level."""
    return f"violation@k{level:.2f}"

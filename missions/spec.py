"""The mission file: what a mission claims, trains and must show, fixed before the run.

`mission.yaml` holds the laptop profile. A profile P other than laptop is mission.yaml plus the
patch `P.yaml` beside it (mappings merge key by key, everything else is replaced). `--set a.b=c`
patches last. The resolved specification is validated once and its hash goes to the ledger
before any data exists. Knows neither models nor Ray.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from missions.errors import SpecError
from missions.resources import ResourcesConfig
from missions.spec_errors import describe
from missions.sweep_spec import SweepConfig
from stats.gates import GateConfig
from stats.sequential.futility import FutilityConfig
from stats.sequential.looks import LooksConfig

PROFILES = ("laptop", "smoke", "cluster")
Profile = Literal["laptop", "smoke", "cluster"]
MAX_FILE_BYTES = 1 << 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArmConfig(_Strict):
    """One arm of the comparison."""

    role: Literal["treatment", "control", "ablation", "ceiling"]
    """Ablations and ceilings are reported; only treatment and controls decide."""
    adapter: str
    """Adapter of `bem.adapters`, or a mission's own word for an arm without one (e.g. none)."""
    note: str = ""
    """What the arm is, in a line for the report."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Settings of this arm; the mission parses them."""
    override: dict[str, Any] = Field(default_factory=dict)
    """Settings of the mission's `params` that this arm has otherwise; a sweep writes them."""


class ParityConfig(_Strict):
    """Which arms must be of equal size."""

    tolerance: float = Field(default=0.05, gt=0, le=0.5)
    """Largest relative difference, treatment against control."""
    pairs: tuple[tuple[str, str], ...]
    """(treatment, control) pairs."""
    check: tuple[Literal["trainable", "flops", "bytes"], ...] = ("trainable", "flops")
    """Figures of ArmCost that must agree."""


class ExamplesConfig(_Strict):
    """Items per split (the mission says of what)."""

    train: int = Field(ge=1)
    dev: int = Field(ge=1)
    test: int = Field(ge=1)


class MissionSpec(_Strict):
    """A resolved mission file."""

    id: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")
    title: str
    hypothesis: str
    """What would be true if the idea works, in words."""
    claim: str
    """The original document's claim, quoted as a claim."""
    estimand: str
    """The quantity that the primary gate estimates, in words."""
    base_model: str = "bundled"
    """`bundled`, a hub id or a local folder of any Hugging Face causal LM."""
    base_floor: dict[str, float] = Field(default_factory=dict)
    """Skill -> least exact match that the base must show (see missions/base_model)."""
    seeds: tuple[int, ...] = Field(min_length=1)
    data_seed: int = Field(default=20260101, ge=0)
    examples: ExamplesConfig
    clusters: str = ""
    """What makes test items dependent (document, stream, wrapper), or `independent`. Scores that
    come in another way than declared make the mission INVALID; empty declares nothing."""
    arms: dict[str, ArmConfig] = Field(min_length=2)
    params: dict[str, Any] = Field(default_factory=dict)
    """Settings of the mission; parsed by its `params_model`."""
    gates: tuple[GateConfig, ...] = Field(min_length=1)
    parity: ParityConfig
    depends_on: tuple[str, ...] = ()
    pack: Literal["seed", "run"] = "seed"
    """Runs that are trained together: all arms of a seed, or each alone."""
    resources: ResourcesConfig = ResourcesConfig()
    withhold_verdict: str | None = None
    """Reason why this profile gives no verdict (smoke), or null."""
    looks: LooksConfig | None = None
    """Numbers of complete seeds at which the mission may be promoted early; null: only at all."""
    futility: FutilityConfig | None = None
    """When the remaining seeds are cancelled because the mission can hardly pass; null: never."""
    sweep: SweepConfig | None = None
    """What is searched on dev before the arms are frozen; null: the settings above are final."""

    @model_validator(mode="after")
    def _consistent(self) -> MissionSpec:
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"seeds must be >= 0, got {list(self.seeds)}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        known = set(self.arms)
        named: list[tuple[str, str]] = [
            (f"gates[{gate.id}]", arm)
            for gate in self.gates
            for arm in (gate.treatment, getattr(gate, "versus", ""))
            if arm
        ]
        named += [("parity.pairs", arm) for pair in self.parity.pairs for arm in pair]
        for where, arm in named:
            if arm not in known:
                raise ValueError(f"{where} names arm {arm!r}; known arms: {sorted(known)}")
        primaries = [gate.id for gate in self.gates if gate.primary]
        if len(primaries) != 1:
            raise ValueError(f"exactly one gate must be primary, got {primaries}")
        if not any(arm.role == "treatment" for arm in self.arms.values()):
            raise ValueError("no arm has role 'treatment'")
        if self.looks is not None:
            self.looks.check_plan(len(self.seeds))
        if self.sweep is not None:
            roles = {name: arm.role for name, arm in self.arms.items()}
            self.sweep.check_against(roles, self.seeds)
        return self

    def digest(self) -> str:
        """sha256 of the canonical JSON of everything above."""
        document = self.model_dump(mode="json")
        # A mission without these rules keeps the hash that it had before they existed.
        for rule in ("looks", "futility", "sweep"):
            if document[rule] is None:
                del document[rule]
        # Likewise one that asks for no particular place and no shared run.
        for field, default in (("custom", {}), ("labels", {}), ("strategy", "packed")):
            if document["resources"][field] == default:
                del document["resources"][field]
        document["arms"] = {name: _arm_document(arm) for name, arm in self.arms.items()}
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def arm_digest(self, arm: str) -> str:
        """sha256 of one arm's settings together with the mission's own params."""
        part = {"arm": _arm_document(self.arms[arm]), "params": self.params}
        text = json.dumps(part, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def seen_by(self, arm: str) -> MissionSpec:
        """The specification as one arm has it: its `override` merged into `params`."""
        override = self.arms[arm].override
        if not override:
            return self
        return self.model_copy(update={"params": merge(self.params, override)})


def _arm_document(arm: ArmConfig) -> dict[str, Any]:
    """An arm for hashing; without an override it keeps the hash that it had before there were."""
    document = arm.model_dump(mode="json")
    if not arm.override:
        del document["override"]
    return document


def load_spec(path: Path, *, profile: str = "laptop", overrides: Sequence[str] = ()) -> MissionSpec:
    """Reads, patches and validates a mission file.

    Args:
        path: mission.yaml.
        profile: laptop, smoke or cluster.
        overrides: `a.b=c` patches; values are YAML.

    Raises:
        SpecError: one line that names file, field, value and what is allowed.
    """
    if profile not in PROFILES:
        raise SpecError(f"Unknown profile {profile!r}. Known: {', '.join(PROFILES)}.")
    document = _read(path)
    source = str(path)
    if profile != "laptop":
        patch = path.with_name(f"{profile}.yaml")
        document = merge(document, _read(patch))
        source = f"{path} + {patch.name}"
    for override in overrides:
        document = _override(document, override)
        source = f"{source} + --set {override}"
    return parse_spec(document, source)


def parse_spec(document: Mapping[str, Any], source: str) -> MissionSpec:
    """Validates an already merged document."""
    try:
        return MissionSpec.model_validate(document)
    except ValidationError as error:
        raise SpecError(describe(error, MissionSpec, source)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise SpecError(f"{path}: {size} bytes; a mission file holds at most {MAX_FILE_BYTES}.")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        text = " ".join(str(error).split())
        raise SpecError(f"{path}: not valid YAML: {text}") from None
    if not isinstance(document, dict):
        raise SpecError(f"{path}: expected a mapping, got {type(document).__name__}.")
    return document


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in patch.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


def _override(document: Mapping[str, Any], override: str) -> dict[str, Any]:
    name, separator, text = override.partition("=")
    keys = name.split(".")
    if not separator or not all(keys):
        raise SpecError(f"--set {override!r}: expected a.b=value.")
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        raise SpecError(f"--set {override!r}: the value is not valid YAML.") from None
    patch: Any = value
    for key in reversed(keys):
        patch = {key: patch}
    return merge(document, patch)

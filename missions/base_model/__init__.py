"""The bundled base model: where it lies, what it can do, and the floor that a mission sets.

`check_floor` and `SkillResult` need torch and are imported when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from missions.base_model.bundle import BaseSkills, SkillFigure, bundled_path, verify_bundle
from missions.errors import BaseBelowFloorError

if TYPE_CHECKING:
    from missions.base_model.skills import SkillResult, check_floor

__all__ = [
    "BaseBelowFloorError",
    "BaseSkills",
    "SkillFigure",
    "SkillResult",
    "bundled_path",
    "check_floor",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    if name in ("SkillResult", "check_floor"):
        from missions.base_model import skills

        return getattr(skills, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

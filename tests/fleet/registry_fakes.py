"""Models to register without a launch: a file of a few bytes, or what a function writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fleet.registry.folders import measure, staged
from fleet.registry.records import (
    MODEL,
    BaseReference,
    Lineage,
    Manifest,
    SeedChoice,
    line_of,
    model_digest,
    model_id,
)
from fleet.registry.writer import Registry, Target


def put(
    registry: Registry,
    content: str,
    *,
    target: Target = "auto",
    forced: str | None = None,
    ref: str = "bundled",
) -> tuple[str, str | None]:
    """Registers a model whose one file holds `content`."""

    def fill(folder: Path) -> None:
        (folder / "part").mkdir()
        (folder / "part" / "weights.safetensors").write_text(content)

    base = BaseReference(ref=ref, digest="b" * 64)
    return put_folder(registry, fill, base=base, target=target, forced=forced)


def put_folder(
    registry: Registry,
    fill: Callable[[Path], None],
    *,
    base: BaseReference,
    target: Target = "auto",
    forced: str | None = None,
) -> tuple[str, str | None]:
    """Registers what `fill` writes."""
    with staged(registry.paths) as folder:
        fill(folder / MODEL)
        files = measure(folder)
        manifest = Manifest(
            id=model_id(
                base,
                "A",
                "planner",
                model_digest(line_of(base, "A"), "planner", "adapter", base, {}, files),
            ),
            kind="adapter",
            mission="A",
            arm="planner",
            base_model=base,
            serving={},
            files=files,
            lineage=Lineage(
                run_id="run",
                profile="laptop",
                mission_hash="m",
                arm_hash="a",
                code_version="c",
                commit="0" * 40,
                dirty=False,
                data_digest="d",
                scores_digest="s",
                seeds=(0, 1, 2),
                choice=SeedChoice(rule="r", figure="f", values={"0": 1.0}, seed=0),
                verdict="INCONCLUSIVE" if forced else "PROMOTE",
                reasons=(),
                verdict_link="v",
                figures=(),
                parents=(),
                forced=forced,
            ),
            versions={},
            created="2026-01-02T03:04:05+00:00",
        )
        return registry.register(folder, manifest, target=target, actor="test")

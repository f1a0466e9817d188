"""`judge`: a verdict on scores that another tool wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.options import AsJson


def judge(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="Long table (.csv, .parquet, .jsonl): arm, seed, example_id, "
            r"\[cluster_id], \[metric], value.",
        ),
    ] = None,
    gates: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="GATE",
            help="kind:superiority,metric=acc,treatment=a,versus=b,min_point=0.015, or a .yaml or "
            ".json file with gates. Repeatable; all must pass.",
        ),
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            "--scores",
            metavar="ARM:SEED=PATH",
            help="A file of one arm and seed: samples of lm-eval, a log of inspect, or a table. "
            "Repeatable.",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="OURS=THEIRS", help="arm=model,value=correct"),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster", metavar="FIELD", help="Field of an item that names its document."
        ),
    ] = None,
    independent: Annotated[
        bool,
        typer.Option(
            "--independent", help="Items are independent: INVALID if they come clustered."
        ),
    ] = False,
    epochs: Annotated[
        str,
        typer.Option("--epochs", help="Logs of inspect with several epochs: mean, or seed."),
    ] = "mean",
    form: Annotated[
        str | None,
        typer.Option("--format", help="table, lm-eval or inspect; found by looking by default."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What the verdict is called.")] = "scores",
    level: Annotated[
        float, typer.Option("--level", min=0.5, max=0.999, help="Of two-sided intervals.")
    ] = 0.95,
    resamples: Annotated[
        int, typer.Option("--resamples", min=100, help="Of the bootstrap beside the t interval.")
    ] = 10_000,
    rng_seed: Annotated[int, typer.Option("--rng-seed", min=0, help="Of the bootstrap.")] = 0,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write the report page there.")
    ] = None,
    as_json: AsJson = False,
    require_promotion: Annotated[
        bool, typer.Option("--require-promotion", help="Exit 7 unless the verdict is PROMOTE.")
    ] = False,
) -> int:
    """Judge scores from elsewhere by gates: long tables, lm-eval samples, inspect logs."""
    import sys
    import time

    from fleet.errors import NothingPromotedError, UsageError
    from fleet.judging.judge_files import JudgeOrder, json_of, judge_files, text_of

    started = time.monotonic()
    if epochs not in ("mean", "seed"):
        raise UsageError(f"--epochs {epochs!r}: expected mean or seed.")
    judged = judge_files(
        JudgeOrder(
            file=file,
            scores=tuple(scores or ()),
            gates=tuple(gates or ()),
            name=name,
            columns=tuple(columns or ()),
            form=form,
            cluster=cluster,
            clusters="independent" if independent else "",
            epochs="mean" if epochs == "mean" else "seed",
            level=level,
            resamples=resamples,
            rng_seed=rng_seed,
        )
    )
    sys.stdout.write(json_of(judged) if as_json else text_of(judged))
    if report is not None:
        from fleet.judging.judge_report import write_page

        page = write_page(judged, report, wall_time_s=time.monotonic() - started)
        sys.stderr.write(f"report: {page}\n")
    if require_promotion and judged.verdict.verdict != "PROMOTE":
        raise NothingPromotedError(
            f"The verdict is {judged.verdict.verdict} (--require-promotion)."
        )
    return 0

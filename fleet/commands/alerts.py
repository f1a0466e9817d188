"""`alerts`: what fires, and the same table for Prometheus and Grafana."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, AlertsFile, AsJson, RunArgument, RunsDir

alerts = typer.Typer(
    name="alerts",
    help="What fires in a run; rules for Prometheus, a dashboard for Grafana.",
    no_args_is_help=True,
    add_completion=False,
)
Out = Annotated[Path | None, typer.Option("--out", help="Write here instead of to stdout.")]


@alerts.command()
def show(
    run: RunArgument = None,
    alerts_file: AlertsFile = None,
    as_json: AsJson = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Show what fires in a run now (exit code 0 whatever it is)."""
    import json
    import sys

    from fleet.alerts import AlertConfig, load_alert_config, look_once
    from fleet.alerts.channels import line
    from fleet.ledger.database import has_writer
    from fleet.ledger.reader import LedgerReader
    from fleet.settings import find_run

    config = load_alert_config(alerts_file) if alerts_file else AlertConfig()
    paths = find_run(runs_dir, run)
    with LedgerReader(paths.ledger) as reader:
        firing = look_once(reader, config, alive=has_writer(paths.ledger))
    if as_json:
        sys.stdout.write(json.dumps([alert.to_dict() for alert in firing], indent=1) + "\n")
        return 0
    for alert in firing:
        sys.stdout.write(f"{line(alert)}\n")
    if not firing:
        sys.stdout.write(f"{paths.run_id}: nothing fires.\n")
    return 0


@alerts.command()
def rules(alerts_file: AlertsFile = None, out: Out = None) -> int:
    """Write the table as a Prometheus rules file."""
    from fleet.alerts import AlertConfig, load_alert_config
    from fleet.metrics.prometheus import rules_file

    config = load_alert_config(alerts_file) if alerts_file else AlertConfig()
    return _write(rules_file(config), out)


@alerts.command()
def dashboard(out: Out = None) -> int:
    """Write the Grafana dashboard (JSON, to be imported)."""
    from fleet.metrics.grafana import dashboard as document

    return _write(document(), out)


@alerts.command()
def test() -> int:
    """Send one made-up alert, so named, to the webhook of the environment."""
    import sys
    import time

    from fleet.alerts import Alert, channels_from_environment
    from fleet.alerts.channels import WEBHOOK
    from fleet.errors import ConfigError, FleetError

    problems: list[str] = []
    channels = channels_from_environment("test", file=None, say=None, complain=problems.append)
    if not channels.has_webhook:
        raise ConfigError(f"No webhook: set {WEBHOOK} or {WEBHOOK}_FILE.")
    now = time.time()
    channels.send(
        [
            Alert(
                rule="Test",
                subject="test",
                severity="info",
                title="A test of the channel",
                text="sent by `fleet.py alerts test`",
                advice="Nothing to do.",
                standing="firing",
                since=now,
                changed_at=now,
            )
        ]
    )
    channels.close()
    if problems:
        raise FleetError(problems[0])
    sys.stdout.write("the webhook took the test alert\n")
    return 0


def _write(text: str, out: Path | None) -> int:
    import sys

    from fleet.errors import StorageError

    if out is None:
        sys.stdout.write(text)
        return 0
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error}") from None
    sys.stderr.write(f"written: {out}\n")
    return 0

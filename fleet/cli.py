"""The command line: `python fleet.py <command>`. Imports nothing heavy; commands do, when called.

Exit codes: 0 ok, 1 a mission failed, 2 usage, 3 invalid configuration, 4 environment, 5 storage,
6 not found, 7 nothing promoted (with --require-promotion), 75 preempted, 130/143 signals.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer
from typer.exceptions import Abort, TyperException

from fleet.commands.alerts import alerts
from fleet.commands.calibrate import calibrate
from fleet.commands.cancel import cancel
from fleet.commands.compare import compare
from fleet.commands.doctor import doctor
from fleet.commands.judge import judge
from fleet.commands.launch import launch
from fleet.commands.logs import logs
from fleet.commands.missions import missions
from fleet.commands.plan_stats import plan_stats
from fleet.commands.promote import promote
from fleet.commands.registry import registry
from fleet.commands.report import report
from fleet.commands.resume import resume
from fleet.commands.retry import retry
from fleet.commands.rollback import rollback
from fleet.commands.serve import serve
from fleet.commands.status import status
from fleet.commands.stop import stop
from fleet.commands.sweep import sweep
from fleet.commands.validate import validate
from fleet.commands.watch import watch
from fleet.errors import FleetError, InterruptedBySignalError

app = typer.Typer(
    name="fleet",
    help="BEM Fleet: adapter research as campaigns, with statistics that a reviewer would sign.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 a mission failed, 2 usage, 3 configuration, 4 environment, "
    "5 storage, 6 not found, 7 nothing promoted, 75 preempted, 130/143 signals.",
)
COMMANDS = (
    launch,
    sweep,
    status,
    watch,
    logs,
    stop,
    resume,
    retry,
    cancel,
    report,
    compare,
    promote,
    rollback,
    serve,
    missions,
    doctor,
    validate,
    judge,
    calibrate,
    plan_stats,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(registry)
app.add_typer(alerts)


def main() -> None:
    """Entry of `fleet.py` and of the `bem-fleet` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; errors become one clear line."""
    try:
        code = app(args=list(arguments), standalone_mode=False)
    except Abort:
        return 130
    except TyperException as error:
        return _tell_usage(error, arguments)
    except FleetError as error:
        return _tell(error)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 - told in a line, kept in a file
        if type(error).__module__.startswith(("missions.", "bem.", "stats.")):
            return _tell(_as_fleet_error(error))
        return _internal(error)
    return int(code or 0)


def _tell(error: FleetError) -> int:
    """What happened, where the log is, the command that goes on."""
    sys.stderr.write(f"error: {error}\n")
    if error.log:
        sys.stderr.write(f"  log: {error.log}\n")
    if error.go_on:
        sys.stderr.write(f"  next: {error.go_on}\n")
    if isinstance(error, InterruptedBySignalError):
        return 128 + error.signal_number
    return error.exit_code


def _tell_usage(error: TyperException, arguments: Sequence[str]) -> int:
    """A command line that cannot be read."""
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(message)
        return error.exit_code
    known = {command.__name__.replace("_", "-") for command in COMMANDS} | {"alerts", "registry"}
    command = next((word for word in arguments if word in known), "")
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.stderr.write(f"  next: python fleet.py {f'{command} ' if command else ''}--help\n")
    return error.exit_code


def _as_fleet_error(error: Exception) -> FleetError:
    """The user's own mistakes, as the packages below the fleet report them."""
    from fleet.errors import ConfigError, NotFoundError

    kind = NotFoundError if type(error).__name__ == "UnknownMissionError" else ConfigError
    return kind(" ".join(str(error).split()))


def _internal(error: Exception) -> int:
    """A fault of ours: the traceback goes to a file, the terminal gets a line."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="bem-fleet-", suffix=".txt", delete=False, encoding="utf-8"
    ) as stream:
        traceback.print_exception(error, file=stream)
    sys.stderr.write(
        f"internal error: {type(error).__name__}: {' '.join(str(error).split())[:300]}\n"
        f"  log: {Path(stream.name)}\n"
        "  next: python fleet.py doctor\n"
    )
    return 1

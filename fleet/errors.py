"""Errors of the fleet, each with its exit code. Knows no command and no console.

FleetError (Exception)              1   something failed while the fleet ran
|-- SweepError                          a sweep that found no settings for an arm
|-- UsageError                      2   arguments that do not go together, an occupied run id
|-- ConfigError                     3   a configuration that cannot be accepted
|-- UnfitEnvironmentError           4   this machine or cluster cannot run what was asked
|-- StorageError                    5   disk, ledger or artifact trouble
|   |-- LedgerError                     the ledger cannot be opened or used
|   |-- KeyConflictError                same key, different value: an alarm, never an overwrite
|   |-- AliasMovedError                 an alias is not where whoever moves it last saw it
|   |-- DamagedError                    a copy that does not verify
|   `-- IllegalMoveError                a state change that the table of moves forbids
|-- NotFoundError                   6   no such run, mission or folder
|-- NothingPromotedError            7   with --require-promotion
|-- PreemptedError                 75   the machine is being taken away
`-- InterruptedBySignalError  130/143   SIGINT or SIGTERM

Every error is one line of text, the log where more stands and the command that goes on; all of
it survives pickling between processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypeVar

Found = TypeVar("Found", bound=BaseException)


class FleetError(Exception):
    """Base of the tree."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, log: str = "", go_on: str = "") -> None:
        super().__init__(message)
        self.log = log
        """Where the details stand; empty where there are none."""
        self.go_on = go_on
        """The command that goes on from here; empty where nothing does."""


class SweepError(FleetError):
    """A sweep found no settings that an arm may have."""


class UsageError(FleetError):
    """Arguments that do not go together."""

    exit_code = 2


class ConfigError(FleetError):
    """A configuration that cannot be accepted."""

    exit_code = 3


class UnfitEnvironmentError(FleetError):
    """This machine or cluster cannot run what was asked."""

    exit_code = 4


class StorageError(FleetError):
    """Disk, ledger or artifact trouble."""

    exit_code = 5


class LedgerError(StorageError):
    """The ledger cannot be opened or used."""


class KeyConflictError(StorageError):
    """The same key came with a different value."""


class AliasMovedError(StorageError):
    """An alias is not where whoever moves it last saw it."""


class DamagedError(StorageError):
    """A copy that does not verify."""


class IllegalMoveError(StorageError):
    """A state change that the table of moves forbids."""


class NotFoundError(FleetError):
    """No such run, mission or folder."""

    exit_code = 6


class NothingPromotedError(FleetError):
    """No mission was promoted although `--require-promotion` was given."""

    exit_code = 7


class PreemptedError(FleetError):
    """The machine is being taken away; a later `launch` goes on."""

    exit_code = 75


class InterruptedBySignalError(FleetError):
    """The user or the system asked the fleet to stop."""

    def __init__(self, message: str, *, signal_number: int, log: str = "", go_on: str = "") -> None:
        super().__init__(message, log=log, go_on=go_on)
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_interrupted, (self.args[0], self.signal_number, self.log, self.go_on))


def _rebuild_interrupted(
    message: str, signal_number: int, log: str, go_on: str
) -> InterruptedBySignalError:
    return InterruptedBySignalError(message, signal_number=signal_number, log=log, go_on=go_on)


def first_line(said: BaseException | str) -> str:
    """The first line of what an error says; its type's name where it says nothing.

    `bem.errors` has the same for itself: to import it here would load torch for every command.
    """
    return _lines(said)[0]


def last_line(said: BaseException | str) -> str:
    """The last line of what an error says: of a remote traceback, the error itself."""
    return _lines(said)[-1]


def cause_of(error: BaseException | None, kind: type[Found]) -> Found | None:
    """The first error of this kind behind another (Ray and Train wrap what workers raise)."""
    return next((found for found in _behind(error) if isinstance(found, kind)), None)


def _lines(said: BaseException | str) -> list[str]:
    silent = "no message" if isinstance(said, str) else type(said).__name__
    return str(said).strip().splitlines() or [silent]


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """An error and everything that it stands for, each once."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        current = waiting.pop()
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [current.__cause__, current.__context__]
        # By these names Ray's errors and Train's hold what they wrap.
        waiting += [getattr(current, name, None) for name in ("cause", "health_check_failure")]
        failures = getattr(current, "worker_failures", None)
        if isinstance(failures, dict):
            waiting += list(failures.values())

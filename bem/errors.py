"""The exceptions of `bem`; this file knows no torch.

BemError(Exception)
+-- InvalidInputError(BemError, ValueError)      a value that the caller must change
|   +-- BaseModelError                           a base model that cannot be loaded or used
|   +-- CheckpointError                          an adapter folder that does not verify
|   +-- RoutingError                             a forward whose routing context does not fit
|   +-- NoCodeError                              an adapter that was asked for codes has none
+-- QueueFullError(BemError)                     an engine that has too much to do already
+-- NonFiniteLossError(BemError, ArithmeticError)    a training step gave NaN or inf
+-- TrainingStopped(BemError)                    asked to stop; the checkpoint holds where it stood
+-- AgreementError(BemError, AssertionError)     two ways to the same figure disagree
"""

from __future__ import annotations


class BemError(Exception):
    """Root of every exception that `bem` raises on purpose."""


class InvalidInputError(BemError, ValueError):
    """A value that the caller must change."""


class BaseModelError(InvalidInputError):
    """A base model that cannot be loaded or used."""


class CheckpointError(InvalidInputError):
    """An adapter folder that does not verify."""


class RoutingError(InvalidInputError):
    """A forward whose routing context does not fit its input or its adapters."""


class NoCodeError(InvalidInputError):
    """An adapter that was asked for its codes computes or records none."""


class QueueFullError(BemError):
    """Too many answers wait already; ask again later."""


class NonFiniteLossError(BemError, ArithmeticError):
    """A training step gave a loss or a gradient that is NaN or infinite."""


class TrainingStopped(BemError):
    """A training was asked to stop and has written where it stood; it is not a failure."""


class AgreementError(BemError, AssertionError):
    """Two ways to the same figure disagree."""


def first_line(said: BaseException | str) -> str:
    """The first line of what an error says; its type's name where it says nothing."""
    silent = "no message" if isinstance(said, str) else type(said).__name__
    return (str(said).strip().splitlines() or [silent])[0]

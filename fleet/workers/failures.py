"""What an error of a mission's own code means: its cause, and the figures that belong to it.

Knows no ledger and no Ray; what follows from a cause is decided in `fleet.policies`.
"""

from __future__ import annotations

import errno
import resource

import psutil
import torch
from torch.distributed import DistError

from bem.errors import NonFiniteLossError
from fleet.policies import Cause
from stats.errors import NonFiniteScoreError

_NOT_FINITE = (NonFiniteLossError, NonFiniteScoreError, FloatingPointError)
_CPU_ALLOCATOR = "can't allocate memory"
"""Torch's CPU allocator raises a bare RuntimeError; its words are all there is to tell it by."""
_GLOO = "gloo/transport"
"""Gloo raises a bare RuntimeError that names the place in its source."""
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


def cause_of_failure(error: BaseException) -> Cause:
    """Why a run failed, by the type of the error."""
    if isinstance(error, _NOT_FINITE):
        return Cause.NONFINITE
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Cause.OOM
    if isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error):
        return Cause.OOM
    return Cause.ERROR


def is_disk_trouble(error: BaseException) -> bool:
    """Whether the disk is full, over quota, read-only or broken: no fault of the mission's."""
    return isinstance(error, OSError) and error.errno in _DISK


def is_lost_peer(error: BaseException) -> bool:
    """Whether another process of a worker group that trains together is gone, not this one."""
    if isinstance(error, DistError):
        return True
    return isinstance(error, RuntimeError) and _GLOO in str(error)


def reason_of(error: BaseException) -> str:
    """One line for the ledger; with figures where memory ran out."""
    said = " ".join(str(error).split()) or "no message"
    text = f"{type(error).__name__}: {said}"
    return f"{text} ({memory_figures()})" if cause_of_failure(error) is Cause.OOM else text


def memory_figures() -> str:
    """What this process holds and may hold, in MiB."""
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = [
        f"resident {_mib(psutil.Process().memory_info().rss)} MiB",
        f"peak {peak_kib // 1024} MiB",
    ]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        figures.append(f"address space limited to {_mib(limit)} MiB")
    machine = psutil.virtual_memory()
    figures.append(f"machine has {_mib(machine.available)} of {_mib(machine.total)} MiB free")
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        figures.append(f"GPU has {_mib(free)} of {_mib(total)} MiB free")
        figures.append(f"of which torch holds {_mib(torch.cuda.memory_reserved())} MiB")
    return ", ".join(figures)


def _mib(size: float) -> int:
    return int(size) // 2**20

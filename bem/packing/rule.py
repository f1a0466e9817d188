"""When packing is worth it: a rule from a measurement.

`benchmarks/packed_training.py`, 5 runs packed against the same runs one by one, one CPU thread,
token-width products (rows of a run, times its tokens, times the hidden size) and how much quicker:

    4,096 to 6,144      1.5 to 1.8
    16,384 to 24,576    1.0 to 1.4
    65,536              1.1
    98,304 and more     0.7 to 0.9      activations of five runs no longer fit the caches

That was before a linear and its pack's deltas were one node of the graph, since when 98,304 stood
at 0.9 to 1.2, run by run. It is with adapters on all seven linears and rows of equal length.
Adapters on two linears, rows padded to the longest of the pack, took 1.1 times as long at 37,632
(docs/adapters.md): so measure. It pays where dispatch, not arithmetic, has the time. In memory it
always pays: one base instead of one a process. It knows neither hosts nor missions.
"""

from __future__ import annotations

from bem.errors import InvalidInputError

CPU_LIMIT = 65_536
"""The largest product of a run's tokens a step and the hidden size at which packing was quicker."""


def packing_pays(*, runs: int, rows: int, tokens: int, hidden_size: int, device: str) -> bool:
    """Whether a packed step is quicker than `runs` steps one after the other in one process.

    Args:
        rows: of one run's batch.
        tokens: of one row.
        device: "cpu"; no other was measured.
    """
    if device != "cpu":
        raise InvalidInputError(f"Packing was measured on 'cpu' only, not on '{device}'.")
    if min(runs, rows, tokens, hidden_size) < 1:
        raise InvalidInputError(
            f"runs {runs}, rows {rows}, tokens {tokens}, hidden_size {hidden_size}: each from 1."
        )
    return runs > 1 and rows * tokens * hidden_size <= CPU_LIMIT

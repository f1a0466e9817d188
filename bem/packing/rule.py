"""When packing is worth it: a rule from a measurement.

`benchmarks/packed_training.py`, 5 LoRAs packed against the same five one by one, one CPU thread,
token-width products (rows of a run, times its tokens, times the hidden size) and how much quicker:

    4,096 to 6,144      1.9 to 2.1      token codes 1.7 to 1.9
    16,384 to 24,576    1.3 to 1.6
    65,536              1.2 to 1.3      token codes 1.1 to 1.2
    98,304              1.1 to 1.3      token codes 1.0 to 1.2
    262,144 and more    1.1             token codes 0.9 to 1.0

That is with adapters on all seven linears and rows of equal length. Adapters on two linears, rows
of the pack a third longer for the longest of them all, gained nothing at 42,000, though the rule
says that they pay (0.96 to 1.04, `benchmarks/packed_mission.py`): so measure. It pays where
dispatch, not arithmetic, has the time. In memory it always pays: one base instead of one a process.
It knows neither hosts nor missions.
"""

from __future__ import annotations

from bem.errors import InvalidInputError

CPU_LIMIT = 65_536
"""The largest product of a run's tokens a step and the hidden size at which packing was quicker in
each run of the benchmark for each of the three kinds measured."""


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

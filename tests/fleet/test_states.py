import itertools

import pytest

from fleet.errors import IllegalMoveError
from fleet.states import MOVES, RunState, check_move


def test_every_state_has_its_moves() -> None:
    assert set(MOVES) == set(RunState)


def test_the_happy_path_is_legal() -> None:
    path = (RunState.PLANNED, RunState.LEASED, RunState.RUNNING, RunState.DONE)
    for before, after in itertools.pairwise(path):
        check_move("r", before, after)


def test_done_is_for_ever() -> None:
    assert MOVES[RunState.DONE] == frozenset()
    with pytest.raises(IllegalMoveError, match=r"Run r: DONE -> RUNNING.*Legal: none"):
        check_move("r", RunState.DONE, RunState.RUNNING)


def test_no_result_without_running() -> None:
    sources = {before for before, targets in MOVES.items() if RunState.DONE in targets}
    assert sources == {RunState.RUNNING}


def test_terminal_states_leave_only_for_the_queue() -> None:
    for state in RunState:
        if state.is_terminal:
            assert MOVES[state] <= {RunState.PLANNED}


def test_every_open_state_can_reach_an_end_and_the_queue() -> None:
    def reachable(start: RunState) -> set[RunState]:
        seen, waiting = {start}, [start]
        while waiting:
            for after in MOVES[waiting.pop()] - seen:
                seen.add(after)
                waiting.append(after)
        return seen

    for state in RunState:
        if not state.is_terminal:
            assert {RunState.DONE, RunState.FAILED, RunState.CANCELLED} <= reachable(state)
            assert RunState.CANCELLED in MOVES[state]

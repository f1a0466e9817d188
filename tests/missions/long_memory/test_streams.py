import numpy as np
import pytest

from missions.errors import MissionError
from missions.long_memory.data import leaked_pairs, make_test_set, training_batch, training_rng
from missions.long_memory.params import LongMemoryParams, StreamParams
from missions.long_memory.streams import QUERY, START, UNIT, StreamFactory, Streams
from missions.seeding import numpy_generator

PARAMS = LongMemoryParams.model_validate(
    {
        "train": {"steps": 4, "batch": 6, "lr": 0.001, "lengths": [256, 512]},
        "evaluation": {"lengths": [512, 1024], "loads": {"light": 12, "heavy": 40}},
    }
)


@pytest.fixture(scope="module")
def factory() -> StreamFactory:
    return StreamFactory(PARAMS.stream, data_seed=7)


@pytest.fixture(scope="module")
def test_set(factory):
    return make_test_set(factory, PARAMS, split="test", count=8, data_seed=7)


def units_of(factory: StreamFactory, ids_T) -> list[tuple[str, int, int]]:
    """Reads one stream naively, unit by unit: its kind, key and value."""
    pad = len(ids_T) % UNIT
    assert set(ids_T[:pad].tolist()) <= {START}
    kinds = []
    for start in range(pad, len(ids_T), UNIT):
        first, second, third = (int(x) for x in ids_T[start : start + UNIT])
        if first == QUERY:
            kind = "query"
        elif factory.first_mark <= first < factory.first_decoy:
            kind = "fact"
        elif factory.first_decoy <= first < factory.first_key:
            kind = "decoy"
        else:
            assert [first, second, third] in factory.phrases.tolist()
            kind = "filler"
        kinds.append((kind, second, third))
    return kinds


def test_every_question_has_one_fact_in_the_first_quarter(factory, test_set) -> None:
    for length, ids_BT in test_set.tokens.items():
        assert ids_BT.shape == (8, length)
        for row, count in enumerate(test_set.facts_B):
            units = units_of(factory, ids_BT[row])
            facts = {key: value for kind, key, value in units if kind == "fact"}
            where = [index for index, unit in enumerate(units) if unit[0] == "fact"]
            asked = [(key, value) for kind, key, value in units if kind == "query"]
            assert len(facts) == len(where) == count
            assert max(where) < max(len(units) // 4, count)
            assert len(asked) == PARAMS.stream.queries
            assert len(set(asked)) == len(asked)
            assert all(facts[key] == value for key, value in asked)
            assert all(unit[0] != "query" for unit in units[: -PARAMS.stream.tail_units])


def test_streams_ask_the_same_at_every_length(test_set) -> None:
    short, long = test_set.tokens[512], test_set.tokens[1024]
    tail = UNIT * PARAMS.stream.tail_units
    assert np.array_equal(short[:, -tail:], long[:, -tail:])
    assert not np.array_equal(short[:, :200], long[:, :200])


def test_answer_and_filler_masks_equal_a_naive_scan(factory, test_set) -> None:
    tail_BT = test_set.tokens[512][:, -64:]
    answers, predictable = factory.answers(tail_BT), factory.predictable(tail_BT)
    facts = factory.fact_ends(test_set.tokens[512])
    for row in range(len(tail_BT)):
        for index, unit in enumerate(reversed(units_of(factory, tail_BT[row, 1:]))):
            last = 63 - UNIT * index
            assert answers[row, last] == (unit[0] == "query")
            assert predictable[row, last] == (unit[0] == "filler")
            assert not answers[row, last - 2 : last].any()
            assert not predictable[row, last - 2 : last].any()
        assert facts[row].sum() == test_set.facts_B[row]


def test_pairs_of_the_splits_are_disjoint_for_every_key(factory) -> None:
    pools = [factory.pool(split) for split in ("train", "dev", "test")]
    for key in range(PARAMS.stream.keys):
        parts = [set(pool[key].tolist()) for pool in pools]
        assert sum(map(len, parts)) == len(set.union(*parts)) == PARAMS.stream.values


def test_training_streams_hold_no_tested_pair_and_a_planted_one_is_found(factory, test_set) -> None:
    rng = training_rng(3)
    batches = [training_batch(factory, PARAMS, rng, step) for step in range(4)]
    assert [batch.ids_BT.shape[1] for batch in batches] == [256, 512, 256, 512]
    assert leaked_pairs(factory, batches, test_set) == 0
    at = int(factory.fact_ends(test_set.tokens[512])[0].nonzero()[0][0])
    planted = batches[1].ids_BT.copy()
    # Under a decoy mark: a leak counts in any role.
    planted[2, 100] = factory.first_decoy
    planted[2, 101:103] = test_set.tokens[512][0, at - 1 : at + 1]
    leak = Streams(ids_BT=planted, facts_B=batches[1].facts_B)
    assert leaked_pairs(factory, [*batches, leak], test_set) == 1


def test_drawing_is_a_function_of_the_seed(factory, test_set) -> None:
    again = make_test_set(
        StreamFactory(PARAMS.stream, data_seed=7), PARAMS, split="test", count=8, data_seed=7
    )
    other = make_test_set(
        StreamFactory(PARAMS.stream, data_seed=8), PARAMS, split="test", count=8, data_seed=8
    )
    assert again.digest() == test_set.digest() != other.digest()


def test_decoys_have_their_share() -> None:
    factory = StreamFactory(StreamParams(decoy_share=0.5), data_seed=1)
    kernels = factory.kernels(numpy_generator(1), np.array([12]), "dev")
    ids = factory.expand(numpy_generator(2), kernels, 8192, "dev").ids_BT
    kinds = [unit[0] for unit in units_of(factory, ids[0])]
    share = kinds.count("decoy") / (kinds.count("decoy") + kinds.count("filler"))
    assert share == pytest.approx(0.5, abs=0.04)


def test_streams_that_cannot_be_spread_are_refused(factory) -> None:
    with pytest.raises(MissionError, match=r"examples\.test: 7 streams"):
        make_test_set(factory, PARAMS, split="test", count=7, data_seed=7)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("lengths", [500], "no multiple of chunk"),
        ("loads", {"light": 4}, "fewer facts than queries"),
        ("loads", {"heavy": 97}, "do not fit"),
    ],
)
def test_bad_evaluations_are_refused(where: str, value: object, message: str) -> None:
    document = PARAMS.model_dump()
    document["evaluation"][where] = value
    with pytest.raises(ValueError, match=message):
        LongMemoryParams.model_validate(document)


def test_the_flag_adds_512k() -> None:
    document = PARAMS.model_dump()
    document["evaluation"]["include_512k"] = True
    assert LongMemoryParams.model_validate(document).evaluation.all_lengths[-1] == 524288

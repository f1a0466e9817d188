"""A planted label is learnt: the target depends on the hint alone, prompts tell nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bem import BEMConfig, BEMModel
from bem.errors import InvalidInputError
from bem.model import HintTable, LabelledExample
from bem.model.training import batches

ANSWERS = {("left", None): "aa", ("right", None): "bb", ("left", "loud"): "AA"}
LETTERS = "cdefghijklmnopqrstuvwxyz"


def examples(prompts: list[str]) -> list[LabelledExample]:
    """Every prompt once with each label."""
    return [
        LabelledExample(prompt=prompt, target=answer, hints=(hint,), mode=mode)
        for prompt in prompts
        for (hint, mode), answer in ANSWERS.items()
    ]


def prompts(first: int, count: int) -> list[str]:
    """Distinct ones: disjoint ranges never share a prompt."""
    span = range(first, first + count)
    return [f"{LETTERS[i % 24]}{LETTERS[i // 24 % 24]}{i % 7}=" for i in span]


def new_model(folder: Path) -> BEMModel:
    adapters: dict[str, dict[str, object]] = {"bem": {"kind": "generated", "rank": 4}}
    return BEMModel(
        BEMConfig.model_validate(
            {
                "base": str(folder),
                "adapters": adapters,
                "hints": ("left", "right"),
                "modes": ("loud",),
            }
        )
    )


def test_a_planted_label_is_learnt_and_holds_on_unseen_prompts(llama_folder: Path) -> None:
    with new_model(llama_folder) as model:
        train, test = examples(prompts(0, 80)), examples(prompts(100, 40))
        assert not {e.prompt for e in train} & {e.prompt for e in test}
        draw = torch.Generator().manual_seed(0)
        assert not any(model.exact_match(test))
        model.fit(train, generator=draw, steps=150, batch_size=24)
        assert sum(model.exact_match(test)) >= 0.95 * len(test)
        wrong = [
            LabelledExample(prompt=e.prompt, target=e.target, hints=("right",), mode=None)
            for e in test
            if e.target == "aa"
        ]
        assert not any(model.exact_match(wrong))
        prompt = test[0].prompt
        said = model.generate(
            [prompt] * 3,
            context_hints=["left", "right", "left"],
            behavioral_mode=[None, None, "loud"],
            max_new_tokens=4,
        )
        assert said == ["aa", "bb", "AA"]
        untold = model.generate([prompt] * 3, context_hints="left", adaptation_strength=0)
        assert untold not in (["aa"] * 3, ["bb"] * 3, ["AA"] * 3)


def test_labels_alone_learn_on_an_adapter_that_stays(llama_folder: Path) -> None:
    with new_model(llama_folder) as model:
        train = examples(prompts(0, 40))
        draw = torch.Generator().manual_seed(0)
        model.fit(train, generator=draw, steps=100, batch_size=24)
        swapped = [
            LabelledExample(
                prompt=e.prompt,
                target=e.target,
                hints=({"left": "right", "right": "left"}[e.hints[0]],),
                mode=e.mode,
            )
            for e in train
            if e.mode is None
        ]
        assert sum(model.exact_match(train)) >= 0.95 * len(train)
        before = {key: value.clone() for key, value in model.host["bem"].state_dict().items()}
        assert sum(model.exact_match(swapped)) < 0.1 * len(swapped)
        model.fit(swapped, generator=draw, steps=60, part="labels", lr=0.1)
        assert sum(model.exact_match(swapped)) >= 0.95 * len(swapped)
        after = model.host["bem"].state_dict()
        assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_what_training_refuses(llama_folder: Path) -> None:
    with new_model(llama_folder) as model:
        draw = torch.Generator()
        wrong = [LabelledExample(prompt="a", target="b", hints=("up",))]
        with pytest.raises(InvalidInputError, match=r"'up'\. Known: left, right"):
            model.fit(wrong, generator=draw, steps=1)
        with pytest.raises(InvalidInputError, match="no example"):
            model.fit([], generator=draw, steps=1)
        with pytest.raises(InvalidInputError, match="Known: all, controller, labels"):
            model.fit(examples(["a"]), generator=draw, steps=1, part="hints")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="give a tuple"):
        LabelledExample(prompt="a", target="b", hints="left")


def test_side_signals_are_sums_of_embeddings() -> None:
    table = HintTable(("a", "b"), ("m",), 3, generator=torch.Generator().manual_seed(0))
    side_BF = table.side([("b", "a"), ("b",), ("elsewhere",)], [None, "m", None])
    zero_E = torch.zeros(3)
    expected = [
        torch.cat([table.hints_KE[0] + table.hints_KE[1], zero_E]),
        torch.cat([table.hints_KE[1], table.modes_KE[0]]),
        torch.zeros(6),
    ]
    torch.testing.assert_close(side_BF, torch.stack(expected))


def test_batches_take_every_row_before_any_twice() -> None:
    draws = batches(5, 2, torch.Generator().manual_seed(0))
    seen = [i for _ in range(5) for i in next(draws)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]
    assert sorted(next(batches(2, 8, torch.Generator()))) == [0, 1]

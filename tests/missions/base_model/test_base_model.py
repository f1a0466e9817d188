from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bem.base import BaseModel, load_base
from missions.base_model import (
    BaseBelowFloorError,
    BaseSkills,
    bundled_path,
    check_floor,
    verify_bundle,
)
from missions.base_model.bundle import MANIFEST, sha256_of
from missions.base_model.skills import exact_matches, solved_examples, wilson_interval
from missions.data.names import names_of
from missions.data.tasks import SKILLS, TaskItem, sample_item
from missions.errors import MissionError


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base(bundled_path())


@pytest.fixture(scope="module")
def random_base() -> BaseModel:
    config = AutoConfig.from_pretrained(bundled_path())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    return BaseModel(model, load_base(bundled_path()).tokenizer, "random-llama")


def test_weights_match_the_manifest_and_are_small() -> None:
    verify_bundle()
    manifest = BaseSkills.read()
    weights = bundled_path() / "model.safetensors"
    assert manifest.files["model.safetensors"] == sha256_of(weights)
    assert weights.stat().st_size <= 4_000_000
    assert set(manifest.skills) == set(SKILLS)
    assert all(figure.num_items >= 1000 for figure in manifest.skills.values())


def test_altered_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(MissionError, match=r"config\.json, model\.safetensors"):
        verify_bundle(tmp_path)
    with pytest.raises(MissionError, match=r"absent\.json"):
        BaseSkills.read(tmp_path / "absent.json")


def test_manifest_figure_of_an_unknown_skill() -> None:
    with pytest.raises(ValueError, match="copy_name"):
        BaseSkills.read(MANIFEST).exact_match("cpy")


def test_base_copies_200_unseen_names(base: BaseModel) -> None:
    items = [
        TaskItem(skill="copy_name", prompt=f"copy: {name}\n", target=name)
        for name in names_of("test")[::18][:200]
    ]
    assert len(items) == 200
    assert np.mean(exact_matches(base.model, base.tokenizer, items)) >= 0.95


@torch.no_grad()
def test_teacher_forced_match_is_greedy_decoding(base: BaseModel) -> None:
    rng = np.random.default_rng(1)
    items = [sample_item(rng, "test", skill) for skill in ("add", "sort_names", "retrieve") * 4]
    hits = exact_matches(base.model, base.tokenizer, items, batch_size=5)
    for item, hit in zip(items, hits, strict=True):
        ids = base.tokenizer(item.prompt)["input_ids"]
        answer: list[int] = []
        while len(answer) < 40 and (not answer or answer[-1] != base.tokenizer.eos_token_id):
            logits_1TV = base.model(input_ids=torch.tensor([[*ids, *answer]])).logits
            answer.append(int(logits_1TV[0, -1].argmax()))
        assert (base.tokenizer.decode(answer) == item.target + "<eos>") == hit


def test_floor_is_met_quickly_by_the_bundled_base(base: BaseModel) -> None:
    started = time.process_time()
    [result] = check_floor(base, {"copy_name": 0.95}, needed_by="mission A")
    assert time.process_time() - started < 3
    assert result.exact_match >= 0.95
    assert result.low < result.exact_match


def test_floor_refuses_a_random_base(random_base: BaseModel) -> None:
    with pytest.raises(
        BaseBelowFloorError,
        match=r"^base model random-llama copies unseen names at 0\.0\d \(n=50\); "
        r"mission A needs >= 0\.95$",
    ):
        check_floor(random_base, {"copy_name": 0.95}, needed_by="mission A", num_items=50)


def test_unknown_floor_skill_is_named(base: BaseModel) -> None:
    with pytest.raises(ValueError, match="known: copy_name"):
        check_floor(base, {"copying": 0.9})


def test_measuring_leaves_the_training_mode(random_base: BaseModel) -> None:
    items = [sample_item(np.random.default_rng(0), "dev", "add")]
    random_base.model.train()
    exact_matches(random_base.model, random_base.tokenizer, items)
    assert random_base.model.training
    random_base.model.eval()


def test_solved_examples_hold_train_names_only() -> None:
    context = solved_examples(np.random.default_rng(0), "copy_name", 4)
    assert context.count("\n") == 8
    assert not set(context.split()) & set(names_of("test"))


def test_wilson_interval_against_a_published_value() -> None:
    # Newcombe (1998), Table I, method 3: 81 of 263 gives 0.2553 to 0.3662.
    low, high = wilson_interval(81, 263)
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    with pytest.raises(ValueError, match="0 <= hits"):
        wilson_interval(3, 0)

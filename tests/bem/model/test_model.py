from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bem import AdapterHost, BEMConfig, BEMModel, load_base
from bem.data import Example, encode
from bem.errors import InvalidInputError, RoutingError
from bem.evaluate import decode, greedy_generate

PROMPTS = ["abc", "a longer prompt", "xyz!"]


def logits(model: BEMModel, texts: list[str], **given: Any) -> torch.Tensor:
    """What the first forward of `generate` computes."""
    seen = []
    hook = model.base.model.register_forward_hook(lambda m, a, out: seen.append(out.logits))
    try:
        model.generate(texts, max_new_tokens=1, **given)
    finally:
        hook.remove()
    made: torch.Tensor = seen[0]
    return made


def test_strength_zero_is_the_base_bit_by_bit(model: BEMModel) -> None:
    adapted = logits(model, PROMPTS, context_hints="formal")
    off = logits(model, PROMPTS, context_hints="formal", adaptation_strength=0)
    off_each = logits(model, PROMPTS, adaptation_strength={"skill": 0.0, "plain": [0, 0, 0]})
    by_row = logits(model, PROMPTS, adaptation_strength=[0.0, 1.0, 0.5], context_hints="formal")
    text = model.generate(PROMPTS, adaptation_strength=0)
    model.use()
    base = logits(model, PROMPTS)
    base_text = model.generate(PROMPTS)
    untouched = model.detach()
    untouched.model.requires_grad_(False)  # torch rounds otherwise where weights take gradients
    mask = torch.tensor([[0] * 12 + [1] * 3, [1] * 15, [0] * 11 + [1] * 4])
    ids = untouched.tokenizer(PROMPTS, padding=True, padding_side="left")["input_ids"]
    alone = untouched.model.generate(
        input_ids=torch.tensor(ids),
        attention_mask=mask,
        max_new_tokens=1,
        return_dict_in_generate=True,
        output_logits=True,
    ).logits[0]
    assert torch.equal(off, base)
    assert torch.equal(off_each, base)
    assert torch.equal(base[:, -1], alone)
    assert text == base_text
    assert torch.equal(by_row[0], base[0])
    torch.testing.assert_close(by_row[1], adapted[1])
    assert not torch.allclose(by_row[2], base[2])
    assert not torch.allclose(by_row[2], adapted[2])


def test_a_batch_gives_what_each_input_gives_alone(model: BEMModel) -> None:
    hints = ["formal", None, ("formal", "short")]
    modes = [None, "careful", "careful"]
    together = model.generate(PROMPTS, context_hints=hints, behavioral_mode=modes, max_new_tokens=6)
    alone = [
        model.generate(text, context_hints=hint, behavioral_mode=mode, max_new_tokens=6)
        for text, hint, mode in zip(PROMPTS, hints, modes, strict=True)
    ]
    assert together == alone


def test_greedy_equals_the_loop_of_our_own(model: BEMModel) -> None:
    model.use("plain")
    rows = encode(
        [Example(prompt=p, target="", id=p, cluster=p) for p in PROMPTS], model.base.tokenizer
    )
    expected = decode(model.host, greedy_generate(model.host, rows, max_new_tokens=6))
    assert model.generate(PROMPTS, max_new_tokens=6) == expected


def test_hints_and_modes_change_what_is_computed(model: BEMModel) -> None:
    plain = logits(model, ["abc"])
    for given in ({"context_hints": "formal"}, {"behavioral_mode": "careful"}):
        assert not torch.allclose(logits(model, ["abc"], **given), plain)
    both = logits(model, ["abc"], context_hints=[("formal", "short")])
    other = logits(model, ["abc"], context_hints=[("short", "formal")])
    torch.testing.assert_close(both, other)
    assert not torch.allclose(both, logits(model, ["abc"], context_hints="formal"))


def test_beams_and_returned_sequences_keep_their_own_context(model: BEMModel) -> None:
    beams: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 5}
    together = model.generate(PROMPTS[:2], context_hints=["formal", None], **beams)
    alone = [
        model.generate(PROMPTS[0], context_hints="formal", **beams),
        model.generate(PROMPTS[1], **beams),
    ]
    assert together == alone
    several = model.generate("abc", num_return_sequences=2, **beams)
    assert isinstance(several, list)
    assert len(several) == 2
    assert several[0] == model.generate("abc", **beams)


def test_sampling_draws_from_the_generator_and_leaves_the_global_state(model: BEMModel) -> None:
    def sample(seed: int) -> Any:
        draw = torch.Generator().manual_seed(seed)
        return model.generate("abc", do_sample=True, generator=draw, max_new_tokens=12)

    before = torch.get_rng_state()
    first = sample(0)
    assert sample(0) == first
    assert sample(1) != first
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(InvalidInputError, match="Sampling draws at random: give generator="):
        model.generate("abc", do_sample=True)


def test_what_cannot_be_done_says_so(model: BEMModel) -> None:
    with pytest.raises(InvalidInputError, match=r"Unknown hint 'rude'\. Known: formal, short\."):
        model.generate("abc", context_hints="rude")
    with pytest.raises(InvalidInputError, match=r"Unknown mode 'rash'\. Known: careful\."):
        model.analyze_routing("abc", behavioral_mode="rash")
    with pytest.raises(InvalidInputError, match="2 entries for 3 inputs"):
        model.generate(PROMPTS, context_hints=["formal", None])
    with pytest.raises(InvalidInputError, match="behavioral_mode has 1 entries for 3"):
        model.generate(PROMPTS, behavioral_mode=["careful"])
    with pytest.raises(InvalidInputError, match="adaptation_strength has 1 entries for 3"):
        model.generate(PROMPTS, adaptation_strength=[1.0])
    with pytest.raises(InvalidInputError, match="finite"):
        model.generate("abc", adaptation_strength=float("nan"))
    with pytest.raises(InvalidInputError, match="Unknown adapter name 'skil'"):
        model.generate("abc", adaptation_strength={"skil": 0.5})
    with pytest.raises(InvalidInputError, match="inputs is empty"):
        model.generate([])
    with pytest.raises(InvalidInputError, match="has no token"):
        model.generate(["abc", ""])
    with pytest.raises(RoutingError, match="use_cache=False"):
        model.generate("abc", use_cache=False)
    with pytest.raises(InvalidInputError, match="'input_ids' is made from the inputs"):
        model.generate("abc", input_ids=torch.ones(1, 1))
    model.use("plain")
    with pytest.raises(InvalidInputError, match=r"Known: none \(no acting adapter"):
        model.generate("abc", context_hints="formal")


def test_a_config_is_checked_when_it_is_made(llama_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown adapter 'nope'\. Known: .*generated"):
        BEMConfig(base="b", adapters={"a": {"kind": "nope"}})
    with pytest.raises(ValueError, match=r"unknown field 'ranks'\. Known: .*rank"):
        BEMConfig(base="b", adapters={"a": {"kind": "lora", "ranks": 2}})
    with pytest.raises(ValueError, match=r"'a' has no kind\. Known: .*lora"):
        BEMConfig(base="b", adapters={"a": {"rank": 2}})
    with pytest.raises(ValueError, match=r"active names 'c'\. Adapters: a"):
        BEMConfig(base="b", adapters={"a": {"kind": "lora"}}, active=("c",))
    with pytest.raises(ValueError, match="names a folder too"):
        BEMConfig(base="b", adapters={"../a": {"kind": "lora"}})
    with pytest.raises(ValueError, match="must differ"):
        BEMConfig(base="b", hints=("x", "x"))
    base = load_base(llama_folder)
    static = BEMConfig(base=llama_folder, adapters={"a": {"kind": "lora"}}, hints=("x",))
    with pytest.raises(InvalidInputError, match="controller reads side signals"):
        BEMModel(static, base=base)
    fields = {"kind": "generated", "side_size": 3}
    odd = BEMConfig(base=llama_folder, adapters={"a": fields}, hints=("x",))
    with pytest.raises(InvalidInputError, match=r"side_size is 3; .* embedding_size, 16"):
        BEMModel(odd, base=base)
    AdapterHost(base).detach()  # a model that was refused leaves its base free


def test_analysis_is_readable_and_json(model: BEMModel) -> None:
    model.add_adapter("bank", "banked", experts=3, top_k=2, gate="renormalised")
    model.add_adapter("sure", "generated", rank=2, uncertainty=True)
    model.use("skill", "plain", "bank", "sure")
    found = model.analyze_routing(PROMPTS, context_hints="formal")
    assert found.without_codes == ("plain",)
    records = {(r.adapter, r.layer): r for r in found.layers}
    assert set(records) == {(n, i) for n in ("skill", "bank", "sure") for i in (0, 1)}
    skill, bank, sure = (records[name, 0] for name in ("skill", "bank", "sure"))
    assert skill.codes[0].shape == (3, 2)
    assert skill.row_variance > 0
    for record in found.layers:
        assert sum(record.load) == pytest.approx(1.0, abs=1e-5)
        assert 0 <= record.entropy <= torch.tensor(float(len(record.load))).log() + 1e-6
    assert [len(r.load) for r in (skill, bank)] == [2, 3]
    shares = bank.codes[0]
    assert bool(((shares > 0).sum(1) == 2).all())
    assert bank.load == pytest.approx(shares.mean(0).tolist(), abs=1e-6)
    assert skill.confidence is None
    assert sure.confidence == pytest.approx([torch.tensor(2.0).sigmoid().item()] * 3)
    as_dict = found.as_dict()
    assert as_dict["layers"][0]["codes"].keys() == set(skill.sites)
    assert "without codes: plain" in str(found)
    other = model.analyze_routing(PROMPTS)
    assert not torch.allclose(other.layers[0].codes[0], skill.codes[0])


def test_the_import_is_cheap() -> None:
    heavy = "('peft', 'faiss', 'bitsandbytes', 'nevergrad', 'ray', 'scipy', 'matplotlib')"
    code = f"import sys, bem; bem.BEMModel; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

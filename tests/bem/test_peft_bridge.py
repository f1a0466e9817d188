"""The bridge: a BEM behaves in PEFT, in `generate` and in the Trainer as on its own host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from bem import AdapterHost, RoutingContext, load_base, make_config
from bem.base import progress_bars_off
from bem.data import Encoded
from bem.errors import InvalidInputError, RoutingError
from bem.evaluate import greedy_generate
from bem.nf4 import quantise_base
from bem.peft_bridge import BemConfig, require_minor, routing
from bem.testing import write_tiny_base

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
IDS_BT = torch.randint(3, 250, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("bridge"), hidden_size=64, mlp_size=64)


def load(folder: Path) -> Any:
    with progress_bars_off():
        return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def stirred(model: Any, seed: int = 1) -> Any:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.base_model.model.bemhub.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def bridged(folder: Path, kind: str = "generated", **fields: Any) -> Any:
    torch.manual_seed(0)
    config = BemConfig(kind=kind, fields={"rank": 3, **fields}, task_type="CAUSAL_LM")
    return stirred(peft.get_peft_model(load(folder), config))


def own_host(folder: Path, model: Any, kind: str = "generated", **fields: Any) -> AdapterHost:
    """The same adapter on a host of ours."""
    host = AdapterHost(load_base(folder))
    host.add("a", make_config(kind, rank=3, **fields), generator=torch.Generator())
    host["a"].load_state_dict(model.base_model.host["default"].state_dict())
    host.use("a")
    return host


@torch.no_grad()
def logits(model: Any, **kwargs: Any) -> Tensor:
    made: Tensor = model(input_ids=IDS_BT, **kwargs).logits
    return made


def test_forward_labels_and_disable_adapter(folder: Path) -> None:
    model = bridged(folder)
    plain = load(folder)
    labels_BT = IDS_BT.clone()
    labels_BT[:, :5] = -100
    host = own_host(folder, model)
    prefix_BT = labels_BT == -100
    wanted = host(IDS_BT, routing=RoutingContext(prefix_mask_BT=prefix_BT)).logits
    torch.testing.assert_close(logits(model, labels=labels_BT), wanted, rtol=0, atol=2e-6)
    whole = host(IDS_BT, routing=RoutingContext(prefix_mask_BT=torch.ones(3, 9).bool())).logits
    torch.testing.assert_close(logits(model), whole, rtol=0, atol=2e-6)
    assert not torch.allclose(logits(model), wanted, atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(logits(model), plain(IDS_BT).logits)
    torch.testing.assert_close(logits(model), whole, rtol=0, atol=2e-6)
    with routing(model, strength=0.0):
        assert torch.equal(logits(model), plain(IDS_BT).logits)
    with pytest.raises(RoutingError, match="no prompt: label its prompt -100"):
        logits(model, labels=IDS_BT)
    trainable, _ = model.get_nb_trainable_parameters()
    assert trainable == host["a"].num_parameters()


def test_save_load_set_and_delete(folder: Path, tmp_path: Path) -> None:
    model = bridged(folder)
    model.add_adapter("second", BemConfig(kind="lora", fields={"rank": 2}))
    first = logits(model)
    stirred(model, 2)
    model.set_adapter("second")
    second = logits(model)
    model.set_adapter("default")
    assert not torch.allclose(first, logits(model), atol=1e-3)  # stirred once more
    first = logits(model)
    assert not torch.allclose(first, second, atol=1e-3)
    model.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    fresh = peft.PeftModel.from_pretrained(load(folder), tmp_path)
    assert torch.equal(logits(fresh), first)
    assert not any(p.requires_grad for p in fresh.parameters())
    fresh.load_adapter(tmp_path / "second", "other")
    assert torch.equal(logits(fresh), first)
    fresh.set_adapter("other")
    assert torch.equal(logits(fresh), second)
    fresh.delete_adapter("other")
    assert torch.equal(logits(fresh), first)
    untouched = fresh.unload()
    assert torch.equal(untouched(IDS_BT).logits, load(folder)(IDS_BT).logits)
    assert not any("bem" in name for name, _ in untouched.named_modules())


@torch.no_grad()
@pytest.mark.parametrize("code", ["sequence", "token"])
def test_generate_is_our_own_generation(folder: Path, code: str) -> None:
    model = bridged(folder, code=code)
    host = own_host(folder, model, code=code)
    prompts = [tuple(row) for row in IDS_BT.tolist()]
    rows = [
        Encoded(prompt_ids=p, target_ids=(2,), id=str(i), cluster="c")
        for i, p in enumerate(prompts)
    ]
    wanted = greedy_generate(host, rows, max_new_tokens=6)
    out_BT = model.generate(
        input_ids=IDS_BT,
        attention_mask=torch.ones_like(IDS_BT),
        max_new_tokens=6,
        do_sample=False,
    )
    made = [row[9:] for row in out_BT.tolist()]
    assert [m[: len(w)] for m, w in zip(made, wanted, strict=True)] == wanted
    host.use()
    assert greedy_generate(host, rows, max_new_tokens=6) != wanted


@torch.no_grad()
@pytest.mark.parametrize("fields", [{"side_size": 2}, {"code": "chunk", "chunk_size": 3}])
def test_beam_search_scores_what_a_full_forward_scores(
    folder: Path, fields: dict[str, Any]
) -> None:
    """Side signals and codes stand beside each beam, and a state follows its beam."""
    model = bridged(folder, **fields)
    side_BF = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]]) if "side_size" in fields else None
    with routing(model, side_BF=side_BF):
        out = model.generate(
            input_ids=IDS_BT,
            attention_mask=torch.ones_like(IDS_BT),
            max_new_tokens=7,
            num_beams=3,
            num_return_sequences=2,
            do_sample=False,
            eos_token_id=None,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    sequences_NT = out.sequences
    labels_NT = sequences_NT.clone()
    labels_NT[:, :9] = -100
    side_NF = None if side_BF is None else side_BF.repeat_interleave(2, 0)
    with routing(model, side_BF=side_NF):
        full = model(input_ids=sequences_NT, labels=labels_NT).logits.log_softmax(-1)
    picked = full[:, 8:-1].gather(-1, sequences_NT[:, 9:, None]).squeeze(-1).sum(1)
    torch.testing.assert_close(out.sequences_scores, picked, rtol=0, atol=2e-5)
    assert len({tuple(row) for row in sequences_NT.tolist()}) == 6


def test_the_trainer_trains_it(folder: Path, tmp_path: Path) -> None:
    model = bridged(folder)
    labels_BT = IDS_BT.clone()
    labels_BT[:, :5] = -100
    pairs = zip(IDS_BT, labels_BT, strict=True)
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in pairs] * 4
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=5,
        per_device_train_batch_size=3,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        seed=0,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 5
    assert losses[-1] < losses[0] - 0.1
    for name, parameter in model.named_parameters():
        assert torch.equal(before[name], parameter) == ("bem_adapters" not in name), name


def test_a_bitsandbytes_base(folder: Path, tmp_path: Path) -> None:
    base = quantise_base(load_base(folder))
    model = stirred(peft.get_peft_model(base.model, BemConfig(fields={"rank": 3})))
    first = logits(model)
    model(input_ids=IDS_BT).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(quantise_base(load_base(folder)).model, tmp_path)
    assert torch.equal(logits(again), first)


def test_what_is_not_possible_says_so(folder: Path) -> None:
    for version in ("0.20.0", "0.22.1", "1.21.0"):
        with pytest.raises(InvalidInputError, match=r"pinned to PEFT 0\.21, installed is"):
            require_minor(version)
    with pytest.raises(InvalidInputError, match="Known: "):
        BemConfig(kind="nothing")
    with pytest.raises(InvalidInputError, match="unknown field 'ranks'"):
        BemConfig(fields={"ranks": 3})
    with pytest.raises(InvalidInputError, match="made of other adapters"):
        BemConfig(kind="interpolation", fields={"experts": ("a",), "expert_ranks": (2,)})
    model = bridged(folder)
    with pytest.raises(InvalidInputError, match="Merging is not possible"):
        model.merge_and_unload()
    with pytest.raises(InvalidInputError, match="adapter_names is not possible"):
        model(input_ids=IDS_BT, adapter_names=["default"] * 3)
    with pytest.raises(RoutingError, match="Leave use_cache on"):
        model.generate(
            input_ids=IDS_BT,
            attention_mask=torch.ones_like(IDS_BT),
            max_new_tokens=3,
            use_cache=False,
        )
    with pytest.raises(RoutingError, match="the batch 3"), routing(model, strength=torch.ones(2)):
        logits(model)
    lora = peft.get_peft_model(load(folder), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(InvalidInputError, match="holds no BEM"), routing(lora):
        pass

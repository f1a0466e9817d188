"""Every block of bem/README.md runs as it stands, on tiny bases and for two steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import bem
from bem import AdapterHost, BEMModel, RoutingContext, add_adapter_folder, load_base, make_config
from bem.base import progress_bars_off
from bem.checkpoint import load_adapter, save_adapter
from bem.composition.norms import norm_audit
from bem.composition.router import AdapterRouter
from bem.composition.router_training import fit_router
from bem.data import Example, encode, pad, pad_id_of
from bem.diagnostics import code_report
from bem.distil import distil
from bem.evaluate import assert_agreement, target_loss, teacher_forced_exact_match
from bem.merging import merged
from bem.model import encode_labelled
from bem.routing.calibration import calibrate
from bem.routing.trace import routing_trace
from bem.sizing import match_rank

README = (Path(bem.__file__).parent / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    re.sub(r"^    ", "", block, flags=re.M).strip("\n")
    for block in re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", README, flags=re.M)
]
ran: set[int] = set()


def run(words: str, names: dict[str, Any], **replaced: str) -> dict[str, Any]:
    """Run the one block with these words; `replaced` swaps texts that the page leaves open."""
    found = [i for i, block in enumerate(BLOCKS) if words in block]
    assert len(found) == 1, words
    ran.add(found[0])
    code = BLOCKS[found[0]].replace("steps=250", "steps=2")
    for old, new in replaced.items():
        assert old in code
        code = code.replace(old, new)
    exec(compile(code, "bem/README.md", "exec"), names)
    return names


@pytest.fixture
def folder(llama_folder: Path) -> dict[str, str]:
    return {"path/to/folder": str(llama_folder)}


@pytest.fixture
def host(llama_folder: Path) -> AdapterHost:
    """With the adapters that the blocks speak of."""
    host = AdapterHost(load_base(llama_folder))
    draw = torch.Generator().manual_seed(0)
    host.add("skill", make_config("generated", rank=2, uncertainty=True), generator=draw)
    for name in ("skill_r", "safety"):
        host.add(name, make_config("lora", rank=8), generator=draw)
    host.use("skill")
    return host


def everything(host: AdapterHost) -> dict[str, Any]:
    """What the blocks take as given."""
    base = host.base
    examples = [Example(prompt=p, target="b", id=p, cluster="c") for p in ("ab", "cd", "ef")]
    rows = encode(examples, base.tokenizer)
    batch = pad(rows, pad_id=pad_id_of(base.tokenizer))
    return {
        "host": host,
        "base": base,
        "rows": rows,
        "batch": batch,
        "hits": [False] * 3,
        "input_ids": batch.input_ids_BT,
        "attention_mask": batch.attention_mask_BT,
        "context": batch.routing(),
        "prefix": batch.prefix_mask_BT,
        "held_out_batches": [batch],
        "generator": torch.Generator().manual_seed(1),
        "add_adapter_folder": add_adapter_folder,
        "AdapterRouter": AdapterRouter,
        "RoutingContext": RoutingContext,
        "assert_agreement": assert_agreement,
        "bem": bem,
        "calibrate": calibrate,
        "code_report": code_report,
        "fit_router": fit_router,
        "load_adapter": load_adapter,
        "load_base": load_base,
        "make_config": make_config,
        "match_rank": match_rank,
        "norm_audit": norm_audit,
        "peft": peft,
        "routing_trace": routing_trace,
        "save_adapter": save_adapter,
        "teacher_forced_exact_match": teacher_forced_exact_match,
        "torch": torch,
    }


def test_five_lines(folder: dict[str, str]) -> None:
    names = run('print(model.generate("hi"))', {}, **folder)
    assert names["model"].active == ("skill",)
    imports = [line for line in BLOCKS[0].splitlines() if "import" in line]
    assert len(BLOCKS[0].splitlines()) - len(imports) <= 5


def test_a_loop_of_ones_own(folder: dict[str, str]) -> None:
    names = run("def step_loss", {}, **folder)
    assert names["hits"] == [False]
    assert isinstance(names["texts"], list)


def test_the_blocks_of_the_model(folder: dict[str, str], tmp_path: Path) -> None:
    names: dict[str, Any] = {"generator": torch.Generator(), "folder": tmp_path / "saved"}
    run("analyze_routing", names, **folder)
    model = names["model"]
    assert isinstance(model, BEMModel)
    assert model.active == ("skill",)
    names["encoded"] = encode_labelled(names["rows"], model.base.tokenizer)
    names |= {"merged": merged, "distil": distil}
    run("report.kl_before", names)
    assert "flat" in model.host.adapters


def test_what_a_forward_is_told(host: AdapterHost) -> None:
    names = everything(host)
    told: list[RoutingContext | None] = []
    host.model.register_forward_pre_hook(lambda module, args: told.append(host._context))
    run(
        "host.hidden_states",
        names,
        **{"generate(...)": "generate(input_ids, max_new_tokens=2)"},
    )
    assert told, "no forward ran"
    assert all(context is names["context"] for context in told)


@pytest.mark.filterwarnings("ignore:No stacked form")
def test_many_adapters_routing_and_what_it_costs(host: AdapterHost, tmp_path: Path) -> None:
    names = everything(host) | {"folder": tmp_path / "one"}
    with torch.no_grad():
        names["hits"] = [False] * 3
        run('save_adapter(host, "skill"', names)
    assert {"skill_f", "mix", "skill_again"} <= set(host.adapters)
    run("routing_trace", names)
    host.use("skill")
    run("forward_flops", names)


def test_baselines(host: AdapterHost, llama_folder: Path) -> None:
    names = everything(host)
    draw = names["generator"]
    for name in ("a", "b"):
        host.add(name, make_config("lora", rank=8), generator=draw)
    batch = names["batch"]

    @torch.no_grad()
    def loss() -> float:
        host.use("hub")
        return float(target_loss(host, batch, batch.routing()))

    import bem.adapters.lorahub
    import bem.nf4  # noqa: F401  (the block names both by their full names)

    made = run("bem.nf4.quantise_base", names | {"loss": loss, "folder": llama_folder},
        **{"budget=40": "budget=2", "quantise_base(load_base(folder))":
           "quantise_base(load_base(folder), backend='torch')"})  # fmt: skip
    assert made["hub"] is host["hub"]
    linear = made["base"].model.get_submodule("model.layers.0.mlp.down_proj")
    assert type(linear) is not torch.nn.Linear, "the base was not quantised"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_through_peft(llama_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    with progress_bars_off():
        model = AutoModelForCausalLM.from_pretrained(llama_folder, attn_implementation="eager")
    names = {"peft": peft, "model": model, "side": None, "ids": torch.tensor([[5, 6]])}
    run(
        "from bem.peft_bridge",
        names,
        **{"generate(...)": "generate(input_ids=ids, max_new_tokens=2)"},
    )
    trained = [name for name, p in names["model"].named_parameters() if p.requires_grad]
    assert trained
    assert all("bem" in name.lower() or "default" in name for name in trained)


def test_no_block_was_left_out() -> None:
    assert BLOCKS
    left = [BLOCKS[i].splitlines()[0] for i in set(range(len(BLOCKS))) - ran]
    assert left == [], "run the file as a whole"

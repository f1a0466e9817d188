"""`judge` on files in the formats of other tools, written here as those tools write them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from fleet.cli import run
from stats.twoway import two_way

ITEMS = 150
GATE = "kind:superiority,metric={metric},treatment=new,versus=old"


def grid(seed: int, level: float, *, seeds: int = 3) -> np.ndarray:
    """Right or wrong, (seeds, items), on items that every arm shares."""
    difficulty = np.random.default_rng(99).random(ITEMS)
    noise = np.random.default_rng(seed).normal(size=(seeds, ITEMS))
    return (difficulty + 0.2 * noise < level).astype(float)


NEW, OLD = grid(1, 0.75), grid(2, 0.5)


def lm_eval_file(
    folder: Path, values: Sequence[float], *, task: str = "gsm8k", **changes: Any
) -> Path:
    """A file of lm-evaluation-harness 0.4 with `--log_samples`: two filters, one row each."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"samples_{task}_2025-03-01T10-11-12.345678.jsonl"
    rows = []
    for name, offset in (("strict-match", 0.0), ("flexible-extract", 1.0)):
        for doc_id, value in enumerate(values):
            doc = {"question": f"q{doc_id}", "template": f"t{doc_id // 3}"}
            right = value if not offset else 1.0
            rows.append(
                {
                    "doc_id": doc_id,
                    "doc": doc,
                    "target": "42",
                    "arguments": {"gen_args_0": {"arg_0": "Q: ...", "arg_1": {"until": ["\n"]}}},
                    "resps": [["The answer is 42."]],
                    "filtered_resps": ["42"],
                    "filter": name,
                    "metrics": ["exact_match", "bleu"],
                    "doc_hash": hashlib.sha256(json.dumps(doc).encode()).hexdigest(),
                    "prompt_hash": "p",
                    "target_hash": "t",
                    "exact_match": right,
                    "bleu": ["42", "43"],
                    **changes,
                }
            )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def inspect_log(path: Path, values: np.ndarray, **changes: Any) -> Path:
    """A log of inspect_ai: `values` has the shape (epochs, items)."""
    samples = [
        {
            "id": f"item-{item}",
            "epoch": epoch + 1,
            "input": "?",
            "target": "42",
            "metadata": {"document": f"d{item // 5}"},
            "scores": {
                "match": {"value": "C" if right else "I", "answer": "42"},
                "judge": {"value": {"style": 0.5, "fact": "C" if right else "I"}},
            },
        }
        for epoch, row in enumerate(values)
        for item, right in enumerate(row)
    ]
    log = {
        "version": 2,
        "status": "success",
        "eval": {"task": "t", "model": "m"},
        "samples": samples,
        **changes,
    }
    if path.suffix == ".eval":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            header = {k: v for k, v in log.items() if k != "samples"}
            archive.writestr("header.json", json.dumps(header))
            for sample in samples:
                name = f"samples/{sample['id']}_epoch_{sample['epoch']}.json"
                archive.writestr(name, json.dumps(sample))
    else:
        path.write_text(json.dumps(log))
    return path


def long_table(new: np.ndarray = NEW, old: np.ndarray = OLD) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "seed": s,
                "example_id": f"{i:03d}",
                "metric": "acc",
                "value": values[s, i],
            }
            for arm, values in (("new", new), ("old", old))
            for s in range(values.shape[0])
            for i in range(values.shape[1])
        ]
    )


@pytest.fixture
def judge(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def call(*arguments: object) -> dict[str, Any]:
        code = run(["judge", "--json", "--resamples", "300", *map(str, arguments)])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        document: dict[str, Any] = json.loads(printed.out)
        return document

    return call


def gate_of(document: dict[str, Any]) -> dict[str, Any]:
    gate: dict[str, Any] = document["verdict"]["gates"][0]
    return gate


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_long_table_of_any_container(judge: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scores.{suffix}"
    frame = long_table()
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    document = judge(path, "--gate", GATE.format(metric="acc") + ",min_point=0.015")
    analysis = two_way(NEW - OLD)
    assert document["verdict"]["verdict"] == "PROMOTE"
    assert gate_of(document)["estimate"] == analysis.estimate
    assert gate_of(document)["interval"]["low"] == analysis.interval(0.95)[0]
    assert document["sources"][0]["format"] == "table"
    assert any("nothing shows that they were fixed before" in note for note in document["notes"])


def test_columns_are_renamed_and_ids_stay_text(judge: Any, tmp_path: Path) -> None:
    frame = long_table().rename(columns={"arm": "model", "seed": "run", "example_id": "doc"})
    frame.drop(columns="metric").to_csv(tmp_path / "s.csv", index=False)
    document = judge(
        tmp_path / "s.csv",
        *("--columns", "arm=model,seed=run", "--columns", "example_id=doc"),
        *("--gate", GATE.format(metric="acc")),
    )
    assert gate_of(document)["estimate"] == two_way(NEW - OLD).estimate


def scores_of(tmp_path: Path, **changes: Any) -> list[str]:
    found: list[str] = []
    for arm, values in (("new", NEW), ("old", OLD)):
        for seed in range(3):
            path = lm_eval_file(tmp_path / f"{arm}{seed}", values[seed], **changes)
            found += ["--scores", f"{arm}:{seed}={path}"]
    return found


def test_samples_of_lm_eval(judge: Any, tmp_path: Path) -> None:
    gate = GATE.format(metric="exact_match@strict-match")
    document = judge(*scores_of(tmp_path), "--gate", gate)
    assert gate_of(document)["estimate"] == two_way(NEW - OLD).estimate
    assert {source["format"] for source in document["sources"]} == {"lm-eval"}
    clustered = judge(*scores_of(tmp_path), "--gate", gate, "--cluster", "template")
    assert gate_of(clustered)["num_units"] == ITEMS // 3
    expected = two_way((NEW - OLD).reshape(3, -1, 3).mean(axis=2)).standard_error
    assert gate_of(clustered)["standard_error"] == pytest.approx(expected, rel=1e-12)
    clustered = judge(
        *scores_of(tmp_path), "--gate", gate, "--cluster", "template", "--independent"
    )
    assert clustered["verdict"]["verdict"] == "INVALID"


def test_older_samples_without_a_list_of_metrics_or_filters(judge: Any, tmp_path: Path) -> None:
    found: list[str] = []
    for arm, values in (("new", NEW), ("old", OLD)):
        for seed in range(2):
            path = tmp_path / f"{arm}{seed}.jsonl"
            rows = (
                {"doc_id": at, "doc": {}, "target": 1, "resps": [[]], "filtered_resps": [1]}
                | {"acc": value, "acc_norm": 1.0 - value}
                for at, value in enumerate(values[seed])
            )
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            found += ["--scores", f"{arm}:{seed}={path}"]
    document = judge(*found, "--gate", GATE.format(metric="acc"))
    assert gate_of(document)["estimate"] == two_way(NEW[:2] - OLD[:2]).estimate


def test_several_tasks_of_one_arm_and_seed(judge: Any, tmp_path: Path) -> None:
    found = []
    for arm, values in (("new", NEW), ("old", OLD)):
        for seed in range(2):
            for task, part in (("a", values[seed, :50]), ("b", values[seed, 50:])):
                path = lm_eval_file(tmp_path / f"{arm}{seed}", part, task=task)
                found += ["--scores", f"{arm}:{seed}={path}"]
    document = judge(*found, "--gate", GATE.format(metric="exact_match@strict-match"))
    assert gate_of(document)["num_examples"] == ITEMS
    assert gate_of(document)["estimate"] == pytest.approx(float((NEW - OLD)[:2].mean()))


@pytest.mark.parametrize("suffix", ["json", "eval"])
def test_logs_of_inspect(judge: Any, tmp_path: Path, suffix: str) -> None:
    found: list[str] = []
    for arm, values in (("new", NEW), ("old", OLD)):
        for seed in range(3):
            path = inspect_log(tmp_path / f"{arm}{seed}.{suffix}", values[seed : seed + 1])
            found += ["--scores", f"{arm}:{seed}={path}"]
    for metric in ("match", "judge@fact"):
        document = judge(*found, "--gate", GATE.format(metric=metric))
        assert gate_of(document)["estimate"] == two_way(NEW - OLD).estimate
    document = judge(*found, "--gate", GATE.format(metric="match"), "--cluster", "document")
    assert gate_of(document)["num_units"] == ITEMS // 5


def test_epochs_are_averaged_or_stand_as_seeds(judge: Any, tmp_path: Path) -> None:
    found: list[str] = []
    for arm, values in (("new", NEW), ("old", OLD)):
        found += ["--scores", f"{arm}={inspect_log(tmp_path / f'{arm}.json', values)}"]
    gate = ("--gate", GATE.format(metric="match"))
    averaged = judge(*found, *gate)
    assert gate_of(averaged)["decision"] == "INCONCLUSIVE"
    assert "3 epochs of every sample are averaged" in averaged["notes"][0]
    difference = (NEW - OLD).mean(axis=0)
    limits = scipy_stats.ttest_1samp(difference, 0.0).confidence_interval(0.95)
    shown = averaged["checkpoints"][0]
    assert (shown["low"], shown["high"]) == pytest.approx((limits.low, limits.high), rel=1e-9)
    told_apart = judge(*found, *gate, "--epochs", "seed")
    assert gate_of(told_apart)["estimate"] == pytest.approx(two_way(NEW - OLD).estimate)
    assert gate_of(told_apart)["seeds"] == [1, 2, 3]
    assert "repeated sampling of one checkpoint" in told_apart["notes"][0]


def test_one_seed_is_inconclusive_and_labelled(tmp_path: Path, capsys: Any) -> None:
    long_table(NEW[:1], OLD[:1]).to_csv(tmp_path / "one.csv", index=False)
    code = run(["judge", str(tmp_path / "one.csv"), "--gate", GATE.format(metric="acc")])
    printed = capsys.readouterr().out
    assert code == 0
    assert printed.startswith("scores: INCONCLUSIVE")
    assert "these checkpoints only, over new test items; not a claim about the method" in printed
    assert "one seed an arm" in printed
    assert "below" not in printed.split("note: ")[-2]


def test_gates_from_a_file_and_a_report_page(judge: Any, tmp_path: Path, capsys: Any) -> None:
    long_table().to_parquet(tmp_path / "s.parquet")
    settings = {"metric": "acc", "treatment": "new", "versus": "old"}
    gates = {
        "gates": [
            {"kind": "superiority", **settings, "min_lower": 0.9},
            {"kind": "non_inferiority", **settings, "margin": 0.01, "id": "safe", "primary": True},
        ]
    }
    (tmp_path / "gates.json").write_text(json.dumps(gates))
    document = judge(
        *(tmp_path / "s.parquet", "--gate", tmp_path / "gates.json", "--name", "elsewhere"),
        *("--report", tmp_path / "page"),
    )
    assert document["verdict"]["verdict"] == "REJECT"
    found = {gate["gate"]: gate for gate in document["verdict"]["gates"]}
    assert (found["superiority-acc"]["decision"], found["safe"]["decision"]) == ("FAIL", "PASS")
    assert [gate["gate"] for gate in found.values() if gate["primary"]] == ["safe"]
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "elsewhere" in page
    assert "nothing shows that they were fixed before" in page


def mistakes(tmp_path: Path) -> dict[str, tuple[list[str], int, str]]:
    table = tmp_path / "t.csv"
    long_table().to_csv(table, index=False)
    gate = ["--gate", GATE.format(metric="acc")]
    samples = lm_eval_file(tmp_path / "a", NEW[0])
    unfinished = inspect_log(tmp_path / "u.json", NEW[:1], status="error")
    broken = inspect_log(tmp_path / "b.json", NEW[:1])
    log = json.loads(broken.read_text())
    log["samples"][7] |= {"scores": None, "error": {"message": "timeout"}}
    broken.write_text(json.dumps(log))
    (tmp_path / "notes.jsonl").write_text("{}\nhello\n")
    (tmp_path / "notes.txt").write_text("hello")
    bare = tmp_path / "bare.csv"
    long_table().drop(columns="seed").to_csv(bare, index=False)
    em = ["--gate", GATE.format(metric="exact_match")]
    match = ["--gate", GATE.format(metric="match")]
    return {
        "no gate": ([str(table)], 2, "at least one --gate"),
        "no input": (gate, 2, "Give either FILE"),
        "both inputs": ([str(table), "--scores", f"a:0={table}", *gate], 2, "Give either FILE"),
        "no file": ([str(tmp_path / "x.csv"), *gate], 6, "No file"),
        "not a gate": ([str(table), "--gate", "better"], 2, "is not NAME=VALUE"),
        "unknown kind": ([str(table), "--gate", "kind:best,metric=acc"], 3, "unknown kind 'best'"),
        "unknown field": ([str(table), "--gate", gate[1] + ",min_pt=1"], 3, "unknown field"),
        "unknown arm": ([str(table), "--gate", gate[1].replace("old", "odd")], 3, "arm 'odd'"),
        "unknown metric": ([str(table), *em], 3, "no metric 'exact_match'; known: acc"),
        "bad scores": (["--scores", "new", *gate], 2, "expected ARM:SEED=PATH"),
        "arm said twice": (["--scores", f"new:0={table}", *gate], 3, "as well"),
        "no seed column": ([str(bare), *gate], 3, "No column 'seed'"),
        "no arm": ([str(samples), *em], 3, "names no arm"),
        "two filters": (
            ["--scores", f"new:0={samples}", *em],
            3,
            "known: exact_match@flexible-extract, exact_match@strict-match",
        ),
        "corpus metric": (
            ["--scores", f"new:0={samples}", "--gate", GATE.format(metric="bleu@strict-match")],
            3,
            "is no single number an example",
        ),
        "unfinished log": (["--scores", f"new:0={unfinished}", *match], 3, "status 'error'"),
        "sample without score": (["--scores", f"new:0={broken}", *match], 3, "(error: timeout)"),
        "not JSON": ([str(tmp_path / "notes.jsonl"), *gate], 3, "line 2: not JSON"),
        "no format": ([str(tmp_path / "notes.txt"), *gate], 3, "not a format that is known"),
        "bad epochs": ([str(table), *gate, "--epochs", "all"], 2, "expected mean or seed"),
        "gate file": ([str(table), "--gate", str(tmp_path / "none.yaml")], 6, "no such file"),
    }


def test_mistakes_are_one_line_with_their_exit_code(tmp_path: Path, capsys: Any) -> None:
    for what, (arguments, expected, said) in mistakes(tmp_path).items():
        code = run(["judge", *arguments])
        printed = capsys.readouterr()
        assert said in printed.err, f"{what}: {printed.err}"
        assert code == expected, what
        assert printed.err.startswith("error: "), what
        assert "Traceback" not in printed.err
        assert len(printed.err.strip().splitlines()) == 1, what


def test_files_of_other_documents_are_no_pair(judge: Any, tmp_path: Path) -> None:
    found = scores_of(tmp_path)
    other = lm_eval_file(tmp_path / "other", OLD[2], doc_hash="f" * 64)
    found[-1] = f"old:2={other}"
    document = judge(*found, "--gate", GATE.format(metric="exact_match@strict-match"))
    assert document["verdict"]["verdict"] == "INVALID"
    assert "cells" in document["verdict"]["reasons"][0]


def test_require_promotion(tmp_path: Path, capsys: Any) -> None:
    long_table(OLD, NEW).to_csv(tmp_path / "t.csv", index=False)
    gate = GATE.format(metric="acc")
    assert run(["judge", str(tmp_path / "t.csv"), "--gate", gate, "--require-promotion"]) == 7
    assert "verdict is REJECT" in capsys.readouterr().err

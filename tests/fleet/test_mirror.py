"""A ledger's copy on a local folder and on an object store, taken while its writer works."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet.cli import run
from fleet.driver.campaign_end import CampaignResult
from fleet.driver.drive import Wishes, is_finished, work
from fleet.errors import ConfigError, NotFoundError, StorageError
from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger
from fleet.mirror import BroughtBack, Mirroring, bring_artifacts, mirror, restore
from fleet.settings import LaunchSettings, RunPaths
from fleet.storage import Storage, check_uri
from fleet.workers.handover import artifact_back

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URI of a bucket on an S3 server in this process."""
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    boto3 = pytest.importorskip("boto3")
    os.environ.update(KEYS)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="bem")
    yield f"s3://bem/fleet?scheme=http&endpoint_override={host}:{port}"
    running.stop()


@pytest.fixture(params=["file", "path", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return str(request.getfixturevalue("bucket"))
    return f"file://{tmp_path}/there" if request.param == "file" else f"{tmp_path}/there"


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(root=tmp_path / "runs" / f"r-{tmp_path.name}")


def scored(ledger: Ledger, paths: RunPaths, make_plan: Callable[..., Any]) -> None:
    """A ledger with a plan, and one result beside which a score file lies."""
    ledger.record_plan(make_plan(), {"created": "now"})
    add_result(paths, "F1-treated-s0", b"scores of one run")


def add_result(paths: RunPaths, run: str, content: bytes) -> None:
    from fleet.ledger.files import store_by_content

    name = store_by_content(paths.scores, content, ".parquet").name
    with closing(sqlite3.connect(paths.ledger)) as cx, cx:
        cx.execute(
            "INSERT INTO results (key, run, value_digest, scores_digest, scores_file, scores_rows,"
            " artifact, cost_json, figures_json, at)"
            " VALUES (?1, ?1, 'v', 'd', ?2, 1, '/gone', '{}', '{}', 0)",
            (run, name),
        )


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as cx:
        return list(cx.iterdump())


def test_there_and_back(uri: str, paths: RunPaths, make_plan: Callable[..., Any]) -> None:
    storage = Storage.at(uri, paths.run_id)
    ledger = Ledger(paths.ledger)
    scored(ledger, paths, make_plan)
    first = mirror(paths, storage)
    assert first.scores == 1
    # Nothing new: nothing is sent. Something new: the older copy of the ledger goes.
    assert mirror(paths, storage).ledger == first.ledger
    add_result(paths, "F1-plain-s0", b"scores of another")
    ledger.set_meta("note", "later")
    second = mirror(paths, storage)
    assert (second.scores, second.ledger != first.ledger) == (1, True)
    names = set(storage.names())
    assert {n for n in names if n.startswith("ledger-")} == {second.ledger}
    assert len(names) == 4
    back = RunPaths(root=paths.root.with_name("back"))
    restore(storage, back)
    assert dump(back.ledger) == dump(paths.ledger)
    assert {p.name for p in back.scores.iterdir()} == {p.name for p in paths.scores.iterdir()}
    with pytest.raises(StorageError, match="only brought back where none is"):
        restore(storage, back)
    ledger.close()
    # What was brought back is a ledger that a writer opens.
    Ledger(back.ledger).close()


def test_artifacts_come_back_and_are_found_on_another_machine(
    uri: str, paths: RunPaths, make_plan: Callable[..., Any]
) -> None:
    storage = Storage.at(uri, paths.run_id)
    ledger = Ledger(paths.ledger)
    scored(ledger, paths, make_plan)
    add_result(paths, "F1-plain-s0", b"scores of another")
    made = paths.artifact("F1", "F1-treated-s0")
    (made / "inner").mkdir(parents=True)
    (made / "manifest.json").write_text("{}")
    (made / "inner" / "weights.safetensors").write_bytes(b"weights")
    storage.put_folder("artifacts/F1-treated-s0", made)  # as its worker does
    mirror(paths, storage)
    ledger.close()
    back = RunPaths(root=paths.root.with_name("back"))
    assert restore(storage, back) == BroughtBack(lacking=("F1-plain-s0",), damaged=())
    here = back.artifact("F1", "F1-treated-s0")
    assert (here / "inner" / "weights.safetensors").read_bytes() == b"weights"
    assert [path.name for path in here.parent.iterdir()] == ["F1-treated-s0"]
    with LedgerReader(back.ledger) as reader:
        (row,) = [row for row in reader.results() if row.run == "F1-treated-s0"]
    cost = '{"arm": "treated", "trainable_params": 1, "adapter_params": 1, "forward_flops": 1}'
    assert artifact_back(replace(row, cost_json=cost), back).path == here
    # Likewise for what a worker of a cluster made, whose folder is not the driver's.
    shutil.rmtree(here)
    bring_artifacts(storage, back, ["F2"])
    assert not here.exists()
    bring_artifacts(storage, back, ["F1"])
    assert (here / "manifest.json").is_file()


@pytest.mark.parametrize("how", ["changed", "gone", "listed elsewhere", "half copied"])
def test_a_damaged_artifact_is_not_taken(
    how: str, paths: RunPaths, tmp_path: Path, make_plan: Callable[..., Any]
) -> None:
    """Whatever the mission put there, with a manifest of its own or without."""
    storage = Storage.at(str(tmp_path / "there"), paths.run_id)
    ledger = Ledger(paths.ledger)
    scored(ledger, paths, make_plan)
    made = paths.artifact("F1", "F1-treated-s0")
    made.mkdir(parents=True)
    (made / "adapter.json").write_text('{"is": [1.0]}')
    (made / "weights.safetensors").write_bytes(b"weights")
    storage.put_folder("artifacts/F1-treated-s0", made)
    mirror(paths, storage)
    ledger.close()
    copy = tmp_path / "there" / paths.run_id / "artifacts"
    listed = copy / "F1-treated-s0.files.json"
    if how == "changed":
        (copy / "F1-treated-s0" / "adapter.json").write_text('{"is": [2.0]}')
    elif how == "gone":
        (copy / "F1-treated-s0" / "adapter.json").unlink()
    elif how == "listed elsewhere":
        listed.write_text('{"../adapter.json": ""}')
    else:  # its worker died before the list, which goes last
        listed.unlink()
    back = RunPaths(root=paths.root.with_name("back"))
    brought = restore(storage, back)
    if how == "half copied":
        assert brought == BroughtBack(lacking=("F1-treated-s0",), damaged=())
    else:
        (why,) = brought.damaged
        said = {
            "changed": "artifacts/F1-treated-s0/adapter.json has sha256",
            "gone": "artifacts/F1-treated-s0/adapter.json is gone",
            "listed elsewhere": "names '../adapter.json', outside of it",
        }
        assert said[how] in why
    assert not list(back.artifact("F1", "F1-treated-s0").parent.glob("*"))
    assert not list(back.artifact("F1", "F1-treated-s0").parent.glob(".*"))
    Ledger(back.ledger).close()  # the run itself is back


def test_promotions_are_in_the_last_copy(
    paths: RunPaths,
    tmp_path: Path,
    make_plan: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The launch's own copies end with its verdicts; what is noted after them comes along too."""
    there = tmp_path / "there"
    ledger = Ledger(paths.ledger)
    scored(ledger, paths, make_plan)
    ledger.close()

    def campaign(*arguments: Any, **named: Any) -> CampaignResult:
        ledger = Ledger(paths.ledger)
        ledger.set_meta("wall_s", 1.0)
        ledger.close()
        mirror(paths, Storage.at(str(there), paths.run_id))
        return CampaignResult(verdicts=(), failed=(), digest="", wall_s=0.0)

    def promote(*arguments: Any) -> tuple[list[Any], list[Any]]:
        ledger = Ledger(paths.ledger)
        ledger.decide("promotion", {"mission": "F1", "model": "m"})
        ledger.close()
        return [], []

    monkeypatch.setattr("fleet.driver.coordinator.run_campaign", campaign)
    monkeypatch.setattr("fleet.driver.drive._promote", promote)
    monkeypatch.setattr("fleet.driver.campaign.failed_missions", lambda reader: ())
    monkeypatch.setattr(
        "fleet.reporting.report.write", lambda *a, **k: (paths.report, {"missions": []})
    )
    monkeypatch.setattr("fleet.monitor.table.print_verdicts", lambda document: None)
    settings = LaunchSettings(
        paths=paths, profile="laptop", command="c", cpus=1, storage=str(there)
    )
    wishes = Wishes(as_json=False, require_promotion=False, registry=None)
    assert work(make_plan(), settings, wishes, started=time.time(), meta={}) == 0
    back = RunPaths(root=tmp_path / "back")
    restore(Storage.at(str(there), paths.run_id), back)
    with LedgerReader(back.ledger) as reader:
        assert reader.latest("promotion") == {"mission": "F1", "model": "m"}
        assert is_finished(reader.meta()), "a resume of the copy would do it all again"


def test_a_copy_is_consistent_while_the_writer_writes(
    paths: RunPaths, tmp_path: Path, make_plan: Callable[..., Any]
) -> None:
    storage = Storage.at(str(tmp_path / "there"), paths.run_id)
    ledger = Ledger(paths.ledger)
    scored(ledger, paths, make_plan)
    over = threading.Event()

    def write() -> None:
        count = 0
        while not over.is_set():
            # Both or neither, whenever a copy is taken.
            ledger.set_meta("pair", [count, count])
            ledger.event("info", "test", f"number {count}")
            count += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for round_ in range(5):
            mirror(paths, storage)
            back = RunPaths(root=tmp_path / f"back{round_}")
            restore(storage, back)
            with closing(sqlite3.connect(back.ledger)) as cx:
                assert cx.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                pair = cx.execute("SELECT value FROM meta WHERE key = 'pair'").fetchone()
                events = cx.execute("SELECT count(*) FROM events").fetchone()[0]
            if pair is not None:
                left, right = json.loads(pair[0])
                assert left == right
                assert events in (left, left + 1)
    finally:
        over.set()
        writer.join()
        ledger.close()


def test_a_damaged_copy_is_not_brought_back(
    paths: RunPaths, tmp_path: Path, make_plan: Callable[..., Any]
) -> None:
    there = tmp_path / "there"
    storage = Storage.at(str(there), paths.run_id)
    ledger = Ledger(paths.ledger)
    scored(ledger, paths, make_plan)
    copied = mirror(paths, storage)
    copy = there / paths.run_id / copied.ledger
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    back = RunPaths(root=tmp_path / "back")
    with pytest.raises(StorageError, match="nothing was brought back"):
        restore(storage, back)
    assert not back.ledger.exists()
    copy.write_bytes(bytes(content[: len(content) // 2]))
    with pytest.raises(StorageError, match="nothing was brought back"):
        restore(storage, back)
    with pytest.raises(NotFoundError, match="holds no latest"):
        restore(Storage.at(str(there), "another"), back)
    ledger.close()


def test_mirroring_copies_at_the_start_and_at_the_end_and_tells_of_trouble(
    paths: RunPaths, tmp_path: Path, make_plan: Callable[..., Any]
) -> None:
    told: list[str] = []
    there = tmp_path / "there"
    storage = Storage.at(str(there), paths.run_id)
    ledger = Ledger(paths.ledger)
    scored(ledger, paths, make_plan)
    mirroring = Mirroring(paths, storage, tell=told.append, every_s=0.05)
    mirroring.start()
    assert (there / paths.run_id / "latest.json").is_file()
    # The storage goes away under it: a file stands where its folder was.
    folder = there / paths.run_id
    folder.rename(there / "aside")
    folder.write_text("in the way")
    ledger.set_meta("note", "new")
    deadline = threading.Event()
    for _ in range(100):
        if told:
            break
        deadline.wait(0.05)
    assert "the ledger was not copied" in told[0]
    folder.unlink()
    (there / "aside").rename(folder)
    mirroring.stop()
    back = RunPaths(root=tmp_path / "back")
    restore(storage, back)
    assert dump(back.ledger) == dump(paths.ledger)
    ledger.close()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("runs", "an absolute path, or a URI of file://, s3://"),
        ("ftp://host/a", "an absolute path"),
        ("s3:///a", "s3://bucket/folder"),
        ("s3://key:secret@bucket/a", "no credentials in the URI"),
        ("file:relative", "file:///absolute/path"),
    ],
)
def test_uris(uri: str, said: str) -> None:
    assert said in check_uri(uri)
    with pytest.raises(ConfigError) as raised:
        Storage.at(uri, "r")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("uri", ["/data", "file:///data", "s3://b/f", "gs://b", "abfss://c/f"])
def test_uris_that_are_allowed(uri: str) -> None:
    assert check_uri(uri) == ""


def test_resume_brings_a_lost_run_back(
    tmp_path: Path, make_plan: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = RunPaths(root=tmp_path / "runs" / "lost")
    storage = tmp_path / "there"
    ledger = Ledger(paths.ledger)
    scored(ledger, paths, make_plan)
    paths.order.write_text("{}")
    mirror(paths, Storage.at(str(storage), "lost"))
    ledger.close()
    elsewhere = tmp_path / "elsewhere"
    arguments = ["--storage", str(storage), "--runs-dir", str(elsewhere)]
    # What was asked for is empty here, so the resume itself ends: after the run is back.
    assert run(["resume", "lost", *arguments]) == 5
    told = capsys.readouterr().err
    assert f"brought lost back from {storage}" in told
    assert "no artifacts there of F1-treated-s0: they cannot be promoted" in told
    assert dump(elsewhere / "lost" / "ledger.sqlite") == dump(paths.ledger)
    assert run(["resume", *arguments]) == 2
    assert "--storage needs the run's id" in capsys.readouterr().err

"""The registry's writer and reader on real files: aliases, rollback, the chain, crashes, damage."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_fakes import put

from fleet.errors import LedgerError, NotFoundError, StorageError, UsageError
from fleet.registry.checking import check
from fleet.registry.folders import measure, read_manifest, staged
from fleet.registry.reader import RegistryReader
from fleet.registry.records import (
    MANIFEST,
    MODEL,
)
from fleet.registry.transfer import export_model, import_model
from fleet.registry.writer import Registry

ROOT = Path(__file__).resolve().parents[3]
LINE = "bundled:A"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as writer:
        yield writer


def aliases(registry: Registry) -> dict[str, str]:
    with RegistryReader(registry.paths.root) as reader:
        return {row.alias: row.model for row in reader.aliases(LINE)}


def test_the_first_is_champion_and_the_next_is_canary(registry: Registry) -> None:
    first, alias = put(registry, "one")
    assert alias == "champion"
    assert first.startswith("bundled:A-planner@")
    second, alias = put(registry, "two")
    assert alias == "canary"
    assert aliases(registry) == {"champion": first, "canary": second}
    with RegistryReader(registry.paths.root) as reader:
        for name in (first, "bundled:A@champion", "A@champion", "A", reader.models()[1].digest[:9]):
            assert reader.resolve(name).id == first
        registry.set_alias(reader.resolve("A@canary"), "champion", actor="test")
    assert aliases(registry) == {"champion": second, "previous": first}


def test_the_same_content_is_one_model(registry: Registry) -> None:
    first, _ = put(registry, "one")
    again, alias = put(registry, "one")
    assert (again, alias) == (first, "champion")
    with RegistryReader(registry.paths.root) as reader:
        assert len(reader.models()) == 1
        assert [link.body["again"] for link in reader.decisions()] == [False, True]
        assert reader.version() == 2


def test_rollback_goes_back_and_never_returns_to_what_was_withdrawn(registry: Registry) -> None:
    one, two, three = (put(registry, name, target="champion")[0] for name in ("1", "2", "3"))
    assert aliases(registry) == {"champion": three, "previous": two}
    assert registry.rollback(LINE, reason="slow", actor="t") == (three, two)
    assert aliases(registry) == {"champion": two, "previous": one}
    assert registry.rollback(LINE, reason="slow", actor="t") == (two, one)
    assert aliases(registry) == {"champion": one}
    with pytest.raises(NotFoundError, match="bundled:A has no previous model"):
        registry.rollback(LINE, reason="slow", actor="t")
    put(registry, "3", target="champion")  # a person may crown it again
    assert aliases(registry) == {"champion": three, "previous": one}


def test_canary_rules(registry: Registry) -> None:
    one, _ = put(registry, "one")
    with pytest.raises(UsageError, match="its canary must be another one"):
        put(registry, "one", target="canary")
    two, _ = put(registry, "two")
    assert registry.drop_canary(LINE, reason="worse", actor="t") == two
    assert aliases(registry) == {"champion": one}
    with pytest.raises(NotFoundError, match="has no canary model"):
        registry.drop_canary(LINE, reason="worse", actor="t")
    with RegistryReader(registry.paths.root) as reader:
        kinds = [link.kind for link in reader.decisions()]
        with pytest.raises(UsageError, match="previous is the champion before"):
            registry.set_alias(reader.resolve(two), "previous", actor="t")
    assert kinds == ["promotion", "promotion", "rollback"]  # nothing that was refused is recorded


def test_lines_do_not_mix(registry: Registry) -> None:
    one, _ = put(registry, "one")
    other, alias = put(registry, "one", ref="Qwen/Qwen3-0.6B")
    assert alias == "champion"
    assert other.startswith("Qwen-Qwen3-0.6B:A-planner@")
    with RegistryReader(registry.paths.root) as reader:
        with pytest.raises(UsageError, match="fits several models"):
            reader.resolve("A")
        assert reader.resolve("bundled:A").id == one
        with pytest.raises(NotFoundError, match=r"No model 'Z'.*bundled:A@champion"):
            reader.resolve("Z")


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "add", "manifest"])
def test_verify_finds_damage_and_damaged_models_are_not_served(
    registry: Registry, damage: str
) -> None:
    one, _ = put(registry, "one" * 100)
    put(registry, "two")
    with RegistryReader(registry.paths.root) as reader:
        assert check(reader).ok
        row = reader.resolve(one)
        folder = reader.folder(row)
        weights = folder / MODEL / "part" / "weights.safetensors"
        if damage == "flip":
            content = bytearray(weights.read_bytes())
            content[7] ^= 1
            weights.write_bytes(content)
        elif damage == "truncate":
            os.truncate(weights, 299)
        elif damage == "remove":
            weights.unlink()
        elif damage == "add":
            (folder / MODEL / "more.json").write_text("{}")
        else:
            path = folder / "manifest.json"
            path.write_text(path.read_text().replace('"verdict": "PROMOTE"', '"verdict": "REJECT"'))
        report = check(reader)
        assert len(report.problems) == 1
        assert one in report.problems[0]
        wanted = {
            "flip": "sha256",
            "truncate": "299 bytes, the manifest says 300",
            "remove": "is in the manifest but not there",
            "add": "is not in the manifest",
            "manifest": "is not the manifest that was registered",
        }[damage]
        assert wanted in report.problems[0]
        with pytest.raises(StorageError, match="does not verify"):
            registry.set_alias(row, "champion", actor="t")
        with pytest.raises(StorageError, match="does not verify"):
            export_model(reader, row, folder.parent / "out", with_base=False, peft=False)


def test_a_changed_decision_breaks_the_chain(registry: Registry) -> None:
    put(registry, "one", forced="to see it served")
    put(registry, "two")
    registry.close()
    with sqlite3.connect(registry.paths.database) as cx:
        cx.execute("UPDATE decisions SET body_json = replace(body_json, 'see', 'say')")
    cx.close()
    with RegistryReader(registry.paths.root) as reader:
        assert "Decision 1 (promotion) was changed" in check(reader).problems[0]


def test_one_writer(registry: Registry) -> None:
    with pytest.raises(LedgerError, match="has a writer already"):
        Registry(registry.paths.root, wait_s=0)
    done = threading.Timer(1.0, registry.close)
    done.start()
    Registry(registry.paths.root).close()  # waits until the other has ended
    done.join()


def test_a_crash_before_the_transaction_leaves_nothing_visible(tmp_path: Path) -> None:
    """Killed for real between the folder's rename and the row: no row, no alias, a note."""
    code = f"""
    import os, signal, sys
    sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parents[1])!r}]
    import fleet.registry.writer as writer
    from registry_fakes import put
    from pathlib import Path
    registry = writer.Registry(Path({str(tmp_path)!r}))
    put(registry, "one")
    publish = writer.publish
    def killed(*given):
        publish(*given)
        os.kill(os.getpid(), signal.SIGKILL)
    writer.publish = killed
    put(registry, "two")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    with RegistryReader(tmp_path) as reader:
        assert len(reader.models()) == 1
        report = check(reader)
        assert report.ok
        assert "a crash while promoting" in report.notes[0]
    with Registry(tmp_path) as registry:
        _, alias = put(registry, "two")
        assert alias == "canary"
    with RegistryReader(tmp_path) as reader:
        assert check(reader).notes == ()


def test_export_and_import(registry: Registry, tmp_path: Path) -> None:
    one, _ = put(registry, "one")
    two, _ = put(registry, "two", forced="to look at it")
    out = tmp_path / "out"
    with RegistryReader(registry.paths.root) as reader:
        export_model(reader, reader.resolve(one), out, with_base=False, peft=False)
        export_model(reader, reader.resolve(two), tmp_path / "two", with_base=False, peft=False)
        with pytest.raises(UsageError, match="exists; an export goes to a new folder"):
            export_model(reader, reader.resolve(one), out, with_base=False, peft=False)
    with Registry(tmp_path / "elsewhere") as other:
        found = import_model(other, out, target="none", forced=None, actor="import")
        assert found == (one, None)
        with pytest.raises(UsageError, match="needs --force --reason"):
            import_model(other, tmp_path / "two", target="none", forced=None, actor="import")
        assert import_model(other, tmp_path / "two", target="auto", forced="to compare", actor="i")
        named = out / MANIFEST
        manifest = json.loads(named.read_text())
        whole = named.read_text()
        stolen = manifest["id"].replace("bundled:A-planner", "bundled:B-all_params")
        assert stolen != manifest["id"]
        named.write_text(json.dumps(manifest | {"id": stolen}))
        with pytest.raises(StorageError, match="does not belong to the content"):
            import_model(other, out, target="none", forced=None, actor="import")
        named.write_text(whole)
        (out / MODEL / "part" / "weights.safetensors").write_text("One")
        with pytest.raises(StorageError, match=r"was not imported: .*sha256"):
            import_model(other, out, target="none", forced=None, actor="import")
    assert not list((tmp_path / "elsewhere" / "staging").iterdir())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"files": {"model/../x.json": {"sha256": "0" * 64, "size_bytes": 1}}}, "is not below"),
        ({"files": {"/etc/x.json": {"sha256": "0" * 64, "size_bytes": 1}}}, "is not below"),
        ({"files": {"model/x.pkl": {"sha256": "0" * 64, "size_bytes": 1}}}, "only .safetensors"),
        ({"kind": "script"}, "field 'kind'"),
        ({"extra": 1}, "field 'extra'"),
    ],
)
def test_hostile_manifests_are_refused(
    registry: Registry, change: dict[str, Any], match: str
) -> None:
    put(registry, "one")
    with RegistryReader(registry.paths.root) as reader:
        folder = reader.folder(reader.models()[0])
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(document | change))
    with pytest.raises(StorageError, match=match):
        read_manifest(folder)


def test_links_are_refused(registry: Registry) -> None:
    with staged(registry.paths) as folder:
        (folder / MODEL / "x.json").symlink_to("/etc/hostname")
        with pytest.raises(StorageError, match="plain files and folders only"):
            measure(folder)

"""What a user meets: exit codes, one clear line for each mistake, quick starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.cli import run

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("ray", "torch", "transformers", "pandas", "numpy", "scipy", "matplotlib", "missions")


def modules_after(*arguments: str) -> tuple[int, set[str], str]:
    """Exit code, heavy modules that were imported, and stderr of a command in a fresh process."""
    script = (
        "import sys\n"
        f"sys.argv = ['fleet.py', *{list(arguments)!r}]\n"
        "from fleet.cli import run\n"
        "code = run(sys.argv[1:])\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.stderr.write('\\nHEAVY ' + ' '.join(found) + '\\n')\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    line = next(line for line in done.stderr.splitlines() if line.startswith("HEAVY"))
    return done.returncode, set(line.split()[1:]), done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["launch", "--help"], ["missions"]])
def test_quick_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code, heavy, _ = modules_after(*arguments)
    assert code == 0
    assert heavy == set()


def test_help_of_judge_names_the_optional_columns(capsys) -> None:
    assert run(["judge", "--help"]) == 0
    told = capsys.readouterr().out
    assert "[cluster_id]" in told
    assert "[metric]" in told


def test_status_imports_nothing_heavy(tmp_path: Path, make_plan) -> None:
    from fleet.ledger.writer import Ledger

    writer = Ledger(tmp_path / "r" / "ledger.sqlite")
    writer.record_plan(make_plan("F1"), {"slots": 2})
    writer.close()
    code, heavy, _ = modules_after("status", "--runs-dir", str(tmp_path))
    assert code == 0
    assert heavy == set()


def test_status_as_json(tmp_path: Path, make_plan, capsys) -> None:
    from fleet.ledger.writer import Ledger

    writer = Ledger(tmp_path / "r" / "ledger.sqlite")
    writer.record_plan(make_plan("F1"), {"slots": 2})
    writer.close()
    assert run(["status", "r", "--json", "--runs-dir", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["missions"][0]["arms"][0]["states"] == ["PLANNED"] * 3


def smoke_missions() -> list[str]:
    """Two real missions, by id."""
    from fleet.catalog import mission_facts

    return [fact["id"] for fact in mission_facts()][:2]


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--missions", "Q"], 6, "Unknown mission 'Q'. Known: A"),
        (["--profile", "smok"], 3, "Unknown profile 'smok'. Did you mean 'smoke'?"),
        (["--missions", "A", "--set", "exmples.test=3"], 3, "Did you mean 'examples'?"),
        (["--missions", "A", "--set", "A:params.nonsense=1"], 3, "unknown key 'nonsense'"),
        (["--missions", "A", "--set", "seeds=[-1]"], 3, "seeds must be >= 0, got [-1]"),
        (["--missions", "A", "--set", "noequals"], 3, "expected a.b=value"),
        (["--missions", "A", "--set", "B:seeds=[1]"], 2, "mission 'B' is not launched"),
        (["--missions", "A", "--set", "base_model=/no/such"], 6, "'/no/such' (missions A)"),
        (["--missions", "A", "--arms", "nothing"], 2, "no launched mission has arm 'nothing'"),
        (["--missions", "A", "--run-id", "../up"], 2, "Run id '../up'"),
        (["--missions", "A", "--set", "resources.cpus=999"], 4, "asks for 999 CPU"),
        (["--missions", "A", "--runs-dir", "/proc/x"], 5, "/proc"),
        (["--frobnicate"], 2, "No such option: --frobnicate"),
    ],
)
def test_each_mistake_is_one_clear_line(
    arguments: list[str], code: int, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [] if "--runs-dir" in arguments else ["--runs-dir", str(tmp_path / "runs")]
    assert run(["launch", *arguments, *runs]) == code
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines[0].startswith("error: ")
    assert line in lines[0]
    assert "Traceback" not in told.err
    assert not (tmp_path / "runs").exists(), "a refused launch leaves nothing behind"


def test_an_occupied_run_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    assert run(["launch", "--run-id", "mine", "--runs-dir", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "Run id 'mine' is taken" in told
    assert "next: python fleet.py status mine" in told


def test_a_base_below_its_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--set", "base_floor={copy_name: 1.01}"]
    code = run(["launch", "--missions", "A", *changes, "--runs-dir", str(tmp_path / "runs")])
    told = capsys.readouterr().err
    assert code == 3, told
    assert "bundled base has copy_name" in told
    assert "mission A needs >= 1.01" in told


@pytest.mark.parametrize("change", ["base_model=/no/such", "base_floor={copy_name: 1.01}"])
def test_a_dry_run_refuses_a_base_as_the_launch_does(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ["launch", "--missions", "A", "--set", change, "--runs-dir", str(tmp_path / "runs")]
    real = run(order), capsys.readouterr().err
    dry = run([*order, "--dry-run"]), capsys.readouterr().err
    assert dry == real
    assert real[0] in (3, 6)


def test_a_dry_run_fetches_no_base(capsys: pytest.CaptureFixture[str]) -> None:
    order = ["launch", "--missions", "A", "--set", "base_model=no-such/base", "--dry-run"]
    assert run(order) == 0
    assert "only the launch fetches and checks: no-such/base" in capsys.readouterr().out


def test_no_run_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "watch", "report"):
        assert run([command, "--runs-dir", str(tmp_path)]) == 6
        assert "No run in" in capsys.readouterr().err
    assert run(["status", "other", "--runs-dir", str(tmp_path)]) == 6
    assert "No run 'other'" in capsys.readouterr().err


def test_dry_run_resolves_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    for profile in ("smoke", "laptop", "cluster"):
        assert run(["launch", "--profile", profile, "--dry-run", "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["profile"] == profile
        assert plan["runs"] == sum(
            len(work["arms"]) * len(work["seeds"]) for work in plan["missions"]
        )
        for work in plan["missions"]:
            assert (work["withhold_verdict"] is not None) == (profile == "smoke")


def test_dry_run_table(capsys: pytest.CaptureFixture[str]) -> None:
    first = smoke_missions()[0]
    assert run(["launch", "--missions", first, "--profile", "smoke", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "runs, about" in told
    assert "no verdict:" in told


def test_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fleet.catalog import mission_facts

    file = mission_facts()[0]["file"]
    assert run(["validate", file]) == 0
    assert "valid. Mission" in capsys.readouterr().out
    broken = tmp_path / "mission.yaml"
    broken.write_text(Path(file).read_text().replace("hypothesis:", "hypotesis:"))
    assert run(["validate", str(broken)]) == 3
    assert "Did you mean 'hypothesis'?" in capsys.readouterr().err
    assert run(["validate", str(tmp_path / "none.yaml")]) == 6


def test_missions_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["missions", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"id", "hypothesis", "claim", "arms"} <= set(facts[0])


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor", "--json", "--runs-dir", str(tmp_path)])
    findings = json.loads(capsys.readouterr().out)
    checks = {finding["check"] for finding in findings}
    assert {"python", "libraries", "torch", "cores", "memory", "disk", "file system"} <= checks
    assert code == (4 if any(finding["level"] == "error" for finding in findings) else 0)


def test_an_unknown_command_names_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lunch"]) == 2
    told = capsys.readouterr().err
    assert "Did you mean 'launch'?" in told
    assert "next: python fleet.py --help" in told


def test_a_simulation_that_is_known_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--real` after `calibrate` adds the real campaign; another seed simulates anew."""
    names = ("run_id", "verdict", "estimate", "interval", "p_value")
    real = dict.fromkeys(names, "of a test")
    monkeypatch.setattr("fleet.judging.calibrate._real_campaign", lambda order: real)
    small = ["calibrate", "--campaigns", "20", "--out", str(tmp_path)]
    assert run(small) == 0
    first = json.loads((tmp_path / "badge.json").read_text())
    capsys.readouterr()
    assert run([*small, "--real"]) == 0
    assert "only the real one runs" in capsys.readouterr().err
    again = json.loads((tmp_path / "badge.json").read_text())
    assert (again["figures"], again["cpu_s"]) == (first["figures"], first["cpu_s"])
    assert again["real"] == real
    assert run([*small, "--real", "--rng-seed", "1"]) == 0
    assert "only the real one runs" not in capsys.readouterr().err


def test_a_badge_takes_enough_campaigns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", "--campaigns", "20"]) == 2
    assert "the badge that reports carry takes at least 2,000" in capsys.readouterr().err

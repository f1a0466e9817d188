"""Values of secrets never get through; ordinary words do."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.driver import drive, ray_session
from fleet.redaction import MIN_LENGTH, RedactedStream, Redactor, secrets_of
from fleet.settings import RunPaths


def test_what_counts_as_a_secret(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("ray-token-value\n")
    webhook = tmp_path / "hook"
    webhook.write_text("https://host/secret-path\n")
    found = secrets_of(
        {
            "HF_TOKEN": "hf_abcdefgh",
            "AWS_SECRET_ACCESS_KEY": "aws-secret-value",
            "BEM_FLEET_ALERT_WEBHOOK_FILE": str(webhook),
            "SOME_TOKEN_FILE": str(tmp_path / "absent"),
            "TOKENIZERS_PARALLELISM": "false",
            "RAY_AUTH_MODE": "token",
            "PATH": "/usr/bin",
            "EMPTY_TOKEN": "",
        },
        home,
    )
    assert found == {
        "HF_TOKEN": "hf_abcdefgh",
        "AWS_SECRET_ACCESS_KEY": "aws-secret-value",
        "BEM_FLEET_ALERT_WEBHOOK_FILE": "https://host/secret-path",
        "RAY_AUTH_TOKEN": "ray-token-value",
    }


def test_longest_first_and_short_ones_left_alone() -> None:
    redactor = Redactor({"SHORT": "false", "A": "12345678", "B": "12345678-9"})
    assert redactor.text("false 12345678-9 12345678") == "false [redacted B] [redacted A]"
    assert redactor.found_in("x12345678x") == "A"
    assert redactor.found_in("nothing") is None
    assert Redactor({}).text("12345678") == "12345678"


@given(
    secret=st.text(min_size=MIN_LENGTH).filter(lambda text: text not in "[redacted KEY]"),
    before=st.text(),
    after=st.text(),
)
def test_no_secret_survives_in_data(secret: str, before: str, after: str) -> None:
    redactor = Redactor({"KEY": secret})
    text = before + secret + after
    cleaned = redactor.data({"a": [text, {text: 1}], "b": (2.5, None, True)})
    assert "[redacted KEY]" in cleaned["a"][0]
    assert cleaned["b"] == [2.5, None, True]
    if "redacted" not in secret and secret not in f"{before}[redacted KEY]{after}":
        assert secret not in cleaned["a"][0]
        assert all(secret not in key for key in cleaned["a"][1])


def test_a_stream_holds_a_line_until_it_is_whole() -> None:
    beneath = io.StringIO()
    with contextlib.closing(RedactedStream(beneath, Redactor({"KEY": "a-secret"}))) as stream:
        stream.write("one\nhalf a-se")
        assert beneath.getvalue() == "one\n"
        stream.write("cret\nand the rest: a-secret")
    assert beneath.getvalue() == "one\nhalf [redacted KEY]\nand the rest: [redacted KEY]"
    assert not beneath.closed


def test_the_drivers_log_and_the_kept_logs_of_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaner = Redactor({"KEY": "a-secret"})
    monkeypatch.setattr(drive, "redactor", lambda: cleaner)
    monkeypatch.setattr(ray_session, "redactor", lambda: cleaner)
    with drive.driver_log(RunPaths(root=tmp_path)):
        sys.stdout.write("Ray says a-secret\n")
    assert (tmp_path / "logs" / "driver.log").read_text() == "Ray says [redacted KEY]\n"
    assert capsys.readouterr().out == ""
    logs = tmp_path / "ray" / "session_2026" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker-1.err").write_bytes(b":job_id:1\nsaid a-secret \xff\n")
    (logs / "worker-2.err").write_bytes(b":job_id:1\n")
    monkeypatch.setattr(ray_session, "MAX_LOG_BYTES", 30)
    (logs / "raylet.out").write_bytes(b"x" * 100 + b"a-secret\n" + b"whole a-secret line here\n")
    ray_session._keep_logs(tmp_path / "ray", tmp_path / "kept")
    kept = {path.name: path.read_text() for path in (tmp_path / "kept").iterdir()}
    assert kept == {
        "worker-1.err": ":job_id:1\nsaid [redacted KEY] \ufffd\n",
        "raylet.out": "whole [redacted KEY] line here\n",
    }

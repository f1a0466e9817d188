"""Values of secrets never get through; ordinary words do."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fleet.redaction import MIN_LENGTH, Redactor, secrets_of


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

"""Alerts reach a file and a real HTTP receiver; a bad receiver is told of, its address is not."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.alerts import Alert, Tracker
from fleet.alerts.channels import Channels, channels_from_environment
from fleet.alerts.config import AlertConfig, load_alert_config
from fleet.errors import ConfigError, NotFoundError
from tests.fleet.alerts.cases import CALM, CASES


class Receiver:
    """An HTTP server that answers with the statuses it is given, then with 200."""

    def __init__(self, statuses: list[int]) -> None:
        self.bodies: list[dict[str, Any]] = []
        received, left = self.bodies, list(statuses)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = left.pop(0) if left else 200
                if status == 200:
                    received.append(body)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?key=very-secret"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    found = Receiver(getattr(request, "param", []))
    yield found
    found.close()


def alerts() -> tuple[Alert, ...]:
    return Tracker(AlertConfig()).look(CASES["NonFinite"])


def test_file_terminal_and_webhook(receiver: Receiver, tmp_path: Path) -> None:
    said: list[str] = []
    complaints: list[str] = []
    channels = Channels(
        "r1",
        file=tmp_path / "alerts.jsonl",
        say=said.append,
        webhook=receiver.url,
        complain=complaints.append,
    )
    tracker = Tracker(AlertConfig())
    channels.send(tracker.look(CASES["NonFinite"]))
    channels.send(tracker.look(CALM))
    channels.send(())
    channels.close()
    lines = [json.loads(row) for row in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert [(row["rule"], row["standing"]) for row in lines] == [
        ("NonFinite", "firing"),
        ("NonFinite", "resolved"),
    ]
    assert said[0].startswith("critical: A loss, gradient or score is NaN or infinite: B-a-s1")
    assert said[1].endswith(": B-a-s1: over")
    firing, resolved = receiver.bodies
    assert (firing["status"], resolved["status"]) == ("firing", "resolved")
    assert firing["alerts"][0]["labels"]["alertname"] == "NonFinite"
    assert firing["alerts"][0]["startsAt"] == "1970-01-01T02:46:40Z"
    assert complaints == []


@pytest.mark.parametrize("receiver", [[503]], indirect=True)
def test_a_receiver_that_fails_once_is_asked_again(receiver: Receiver) -> None:
    channels = Channels("r1", webhook=receiver.url, wait_s=0.01)
    channels.send(alerts())
    channels.close()
    assert len(receiver.bodies) == 1


@pytest.mark.parametrize("receiver", [[500] * 3], indirect=True)
def test_a_receiver_that_fails_is_told_of_without_its_address(receiver: Receiver) -> None:
    complaints: list[str] = []
    channels = Channels("r1", webhook=receiver.url, complain=complaints.append, wait_s=0.01)
    channels.send(alerts())
    channels.close()
    assert receiver.bodies == []
    assert complaints == ["the webhook took no alert after 3 tries (HTTPError)"]


def test_the_terminal_is_spared_mere_information() -> None:
    said: list[str] = []
    channels = Channels("r1", say=said.append)
    tracker = Tracker(AlertConfig())
    channels.send(tracker.look(CASES["Drift"]))
    assert said == []
    channels.send(tracker.look(CASES["Rollback"]))
    assert said == [
        "warning: A living model was rolled back outside its planned disturbance: B: "
        "B-a-s0 rolled back once"
    ]


def test_environment(tmp_path: Path) -> None:
    def read(environment: dict[str, str]) -> Channels:
        return channels_from_environment(
            "r1", file=None, say=None, complain=lambda text: None, environment=environment
        )

    assert not read({}).has_webhook
    assert read({"BEM_FLEET_ALERT_WEBHOOK": "https://host/x"}).has_webhook
    secret = tmp_path / "url"
    secret.write_text("https://host/x\n")
    assert read({"BEM_FLEET_ALERT_WEBHOOK_FILE": str(secret)}).has_webhook
    with pytest.raises(ConfigError, match="cannot be read"):
        read({"BEM_FLEET_ALERT_WEBHOOK_FILE": str(tmp_path / "absent")})
    for wrong in ("ftp://host/very-secret", "https:///very-secret", "very-secret"):
        with pytest.raises(ConfigError) as caught:
            read({"BEM_FLEET_ALERT_WEBHOOK": wrong})
        assert "very-secret" not in str(caught.value)


def test_thresholds_file(tmp_path: Path) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text("no_progress_s: 30\n")
    assert load_alert_config(path).no_progress_s == 30
    path.write_text("")
    assert load_alert_config(path) == AlertConfig()
    for text, words in {
        "no_progres_s: 30": "no_progress_s",
        "no_progress_s: -1": "greater than 0",
        "[1]": "expected a mapping",
        "a: [": "cannot be read",
    }.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=words) as caught:
            load_alert_config(path)
        assert str(path) in str(caught.value)
    with pytest.raises(NotFoundError):
        load_alert_config(tmp_path / "absent.yaml")


def test_an_address_that_cannot_be_called_is_told_of_and_not_shown() -> None:
    complaints: list[str] = []
    channels = Channels(
        "r1",
        webhook="http://localhost:1/very secret\x7f",
        complain=complaints.append,
        wait_s=0.0,
    )
    channels.send(alerts())
    channels.close()
    assert complaints == ["the webhook took no alert after 3 tries (InvalidURL)"]


def test_a_file_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    complaints: list[str] = []
    Channels("r1", file=tmp_path, complain=complaints.append).send(alerts())
    assert len(complaints) == 1
    assert "could not be written" in complaints[0]

"""Tells people: a file beside the ledger, the terminal, a webhook.

The webhook's address is a secret: it comes from `BEM_FLEET_ALERT_WEBHOOK` or from the file that
`BEM_FLEET_ALERT_WEBHOOK_FILE` names, and is never written anywhere. Its body is that of
Prometheus Alertmanager's webhook, so that one receiver serves both. Sending happens on a thread
of its own: a slow receiver does not hold a launch up.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleet.alerts.track import Alert
from fleet.errors import ConfigError

WEBHOOK = "BEM_FLEET_ALERT_WEBHOOK"
WEBHOOK_FILE = "BEM_FLEET_ALERT_WEBHOOK_FILE"
TIMEOUT_S = 5.0
TRIES = 3
MAX_WAITING = 256


class Channels:
    """Every place that an alert goes to."""

    def __init__(
        self,
        run_id: str,
        *,
        file: Path | None = None,
        say: Callable[[str], None] | None = None,
        webhook: str | None = None,
        complain: Callable[[str], None] = lambda text: None,
        wait_s: float = 1.0,
    ) -> None:
        """
        Args:
            file: JSON lines are appended here.
            say: shows a line to whoever sits at the terminal; alerts of severity info are left out.
            webhook: http(s) address; see `channels_from_environment`.
            complain: told when a message could not be delivered.
            wait_s: before the second try; doubled before each further one.
        """
        self._run_id = run_id
        self._file = file
        self._say = say
        self._webhook = webhook
        self._complain = complain
        self._wait_s = wait_s
        self._queue: queue.Queue[Sequence[Alert] | None] = queue.Queue(maxsize=MAX_WAITING)
        self._thread: threading.Thread | None = None

    @property
    def has_webhook(self) -> bool:
        """Whether alerts are sent anywhere beyond this machine."""
        return self._webhook is not None

    def send(self, alerts: Sequence[Alert]) -> None:
        """Tells about alerts that began to fire or were resolved."""
        if not alerts:
            return
        if self._file is not None:
            rows = [json.dumps({"run_id": self._run_id, **alert.to_dict()}) for alert in alerts]
            try:
                with self._file.open("a", encoding="utf-8") as stream:
                    stream.write("".join(f"{row}\n" for row in rows))
            except OSError as error:
                self._complain(f"{self._file.name} could not be written: {error}")
        if self._say is not None:
            for alert in alerts:
                if alert.severity != "info":
                    self._say(short_line(alert))
        if self._webhook is not None:
            self._enqueue(alerts)

    def close(self, wait_s: float = 10.0) -> None:
        """Delivers what waits, for at most `wait_s` seconds."""
        if self._thread is None:
            return
        try:
            self._queue.put(None, timeout=wait_s)
            self._thread.join(timeout=wait_s)
        except queue.Full:
            pass  # the thread is alive and behind: said below
        if self._thread.is_alive():
            self._complain("alerts are still on their way to the webhook; given up")

    def _enqueue(self, alerts: Sequence[Alert]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._deliver, name="alerts", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(alerts)
        except queue.Full:
            self._complain(f"the webhook is too slow: {len(alerts)} alerts were not sent")

    def _deliver(self) -> None:
        while (alerts := self._queue.get()) is not None:
            body = json.dumps(message(self._run_id, alerts)).encode()
            for attempt in range(TRIES):
                try:
                    self._post(body)
                    break
                except Exception as error:  # noqa: BLE001 - whatever it is, it ends no launch
                    # The reason may quote the address: say only of what kind it was.
                    if attempt == TRIES - 1:
                        kind = type(error).__name__
                        self._complain(f"the webhook took no alert after {TRIES} tries ({kind})")
                    else:
                        time.sleep(self._wait_s * 2**attempt)

    def _post(self, body: bytes) -> None:
        assert self._webhook is not None
        request = urllib.request.Request(
            self._webhook, data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            pass


def line(alert: Alert) -> str:
    """One line for a person."""
    if alert.standing == "resolved":
        return f"resolved: {alert.title} ({alert.subject})"
    return f"{alert.severity}: {alert.title}: {alert.subject}: {alert.text}. {alert.advice}"


def short_line(alert: Alert) -> str:
    """One line for a terminal; the advice stands in `fleet.py alerts show` and in the ledger."""
    what = "over" if alert.standing == "resolved" else alert.text
    return f"{alert.severity}: {alert.title}: {alert.subject}: {what}"


def message(run_id: str, alerts: Sequence[Alert]) -> dict[str, Any]:
    """Body of an Alertmanager webhook, version 4."""
    firing = any(alert.standing == "firing" for alert in alerts)
    return {
        "version": "4",
        "groupKey": f'{{}}:{{run_id="{run_id}"}}',
        "truncatedAlerts": 0,
        "status": "firing" if firing else "resolved",
        "receiver": "bem-fleet",
        "groupLabels": {"run_id": run_id},
        "commonLabels": {"run_id": run_id},
        "commonAnnotations": {},
        "externalURL": "",
        "alerts": [
            {
                "status": alert.standing,
                "labels": {
                    "alertname": alert.rule,
                    "severity": alert.severity,
                    "subject": alert.subject,
                    "run_id": run_id,
                },
                "annotations": {
                    "summary": alert.title,
                    "description": alert.text,
                    "advice": alert.advice,
                },
                "startsAt": _time(alert.since),
                "endsAt": _time(alert.changed_at if alert.standing == "resolved" else None),
                "generatorURL": "",
                "fingerprint": f"{alert.rule}/{alert.subject}",
            }
            for alert in alerts
        ],
    }


def channels_from_environment(
    run_id: str,
    *,
    file: Path | None,
    say: Callable[[str], None] | None,
    complain: Callable[[str], None],
    environment: Mapping[str, str] = os.environ,
) -> Channels:
    """The channels that the environment asks for.

    Raises:
        ConfigError: the webhook's file cannot be read, or the address is not http(s). The address
            itself is not shown.
    """
    url = environment.get(WEBHOOK, "").strip()
    source = WEBHOOK
    if not url and environment.get(WEBHOOK_FILE):
        source = WEBHOOK_FILE
        path = Path(environment[WEBHOOK_FILE])
        try:
            url = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{WEBHOOK_FILE}: {path} cannot be read: {error}") from None
    if url and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname):
        raise ConfigError(f"{source}: expected an http:// or https:// address with a host.")
    return Channels(run_id, file=file, say=say, webhook=url or None, complain=complain)


def _time(at: float | None) -> str:
    if at is None:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")

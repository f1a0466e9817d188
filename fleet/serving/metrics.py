"""What /metrics tells, for Prometheus. Counters of known labels exist from the start, at 0: a
counter first seen at 1 never fires `increase()`. Knows no model.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bem.engine import Load

ENDPOINTS = ("/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/feedback", "other")
STATUSES = ("200", "202", "400", "401", "404", "429", "500", "503", "504")
_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """One server's figures."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "bem_serving_requests", "Requests by endpoint and status.",
            ("endpoint", "status"), registry=self._registry,
        )  # fmt: skip
        for endpoint in ENDPOINTS:
            for status in STATUSES:
                self._requests.labels(endpoint, status)
        self._latency = Histogram(
            "bem_serving_request_seconds", "From the first byte of a request to the last of its "
            "answer.", ("endpoint",), buckets=_LATENCY_S, registry=self._registry,
        )  # fmt: skip
        for endpoint in ENDPOINTS:
            self._latency.labels(endpoint)
        self._first = Histogram(
            "bem_serving_first_token_seconds", "From admission to the first token.",
            buckets=_LATENCY_S, registry=self._registry,
        )  # fmt: skip
        self._tokens = Counter(
            "bem_serving_tokens", "Tokens of prompts and answers.", ("kind",),
            registry=self._registry,
        )  # fmt: skip
        for kind in ("prompt", "answer"):
            self._tokens.labels(kind)
        self._answers = Counter(
            "bem_serving_answers", "Answers by the role of the model that gave them.", ("role",),
            registry=self._registry,
        )  # fmt: skip
        for role in ("champion", "canary", "previous", "id", "base"):
            self._answers.labels(role)
        self._ends = Counter(
            "bem_serving_ends", "How answers ended.", ("reason",), registry=self._registry
        )
        for reason in ("stop", "length", "cancelled", "deadline", "error"):
            self._ends.labels(reason)
        self._models = Gauge("bem_serving_models", "Models served.", registry=self._registry)
        self._skipped = Gauge(
            "bem_serving_models_skipped", "Models that should be served and are not.",
            registry=self._registry,
        )  # fmt: skip
        self._swaps = Gauge(
            "bem_serving_swaps", "Changes of what is served.", registry=self._registry
        )
        self._load = {
            name: Gauge(f"bem_serving_engine_{name}", text, registry=self._registry)
            for name, text in (
                ("running", "Answers in progress."),
                ("waiting", "Answers that wait for a row."),
                ("steps", "Steps so far."),
                ("kv_bytes", "Bytes of keys and values."),
            )
        }
        self._feedback = Counter(
            "bem_serving_feedback", "Feedback by what became of it.", ("outcome",),
            registry=self._registry,
        )  # fmt: skip
        for outcome in ("accepted", "refused", "learned", "quarantined"):
            self._feedback.labels(outcome)
        self._online = Counter(
            "bem_serving_online_canary", "Canary runs of online learners by what followed.",
            ("action",), registry=self._registry,
        )  # fmt: skip
        for action in ("promote", "hold", "rollback"):
            self._online.labels(action)
        self._drift = Counter(
            "bem_serving_online_drift", "Changes of the error level, told by ADWIN.",
            registry=self._registry,
        )  # fmt: skip
        self._sessions = Gauge(
            "bem_serving_sessions", "Stateful sessions kept.", registry=self._registry
        )
        self._session_bytes = Gauge(
            "bem_serving_session_bytes", "Bytes of their states.", registry=self._registry
        )

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """One request is over."""
        known = endpoint if endpoint in ENDPOINTS else "other"
        self._requests.labels(known, str(status)).inc()
        self._latency.labels(known).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """An answer has begun."""
        self._first.observe(seconds)

    def answer(self, role: str, reason: str) -> None:
        """An answer is over."""
        self._answers.labels(role).inc()
        self._ends.labels(reason).inc()

    def count_tokens(self, prompt_tokens: int, answer_tokens: int) -> None:
        """A request is over."""
        self._tokens.labels("prompt").inc(prompt_tokens)
        self._tokens.labels("answer").inc(answer_tokens)

    def feedback(self, outcome: str, count: int = 1) -> None:
        """Feedback came, was learned from, or was thrown away."""
        self._feedback.labels(outcome).inc(count)

    def online_canary(self, action: str) -> None:
        """An online learner ran its canary suite."""
        self._online.labels(action).inc()

    def drift(self) -> None:
        """The level of errors has changed."""
        self._drift.inc()

    def view(self, models: int, skipped: int, swaps: int) -> None:
        """What is served has changed."""
        self._models.set(models)
        self._skipped.set(skipped)
        self._swaps.set(swaps)

    def page(self, load: Load, sessions: int, session_bytes: int) -> bytes:
        """The text that Prometheus reads."""
        for name, gauge in self._load.items():
            gauge.set(getattr(load, name))
        self._sessions.set(sessions)
        self._session_bytes.set(session_bytes)
        page: bytes = generate_latest(self._registry)
        return page

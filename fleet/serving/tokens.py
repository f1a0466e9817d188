"""Bearer tokens: read from a file of mode 0600 or from the environment, compared in constant time.

A file has one token a line; '#' begins a comment. What is kept are their sha256, so that no log, no
error and no dump of memory shows one. Knows no server.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fleet.errors import ConfigError

TOKENS_VARIABLE = "BEM_FLEET_API_TOKENS"
ADMIN_VARIABLE = "BEM_FLEET_ADMIN_TOKEN"
_LEAST_LENGTH = 16

Right = Literal["nobody", "client", "admin"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Secrets:
    """Digests of the tokens that are let in."""

    clients: tuple[str, ...] = field(default=(), repr=False)
    admin: str | None = field(default=None, repr=False)

    @property
    def required(self) -> bool:
        """Whether requests must bring a token."""
        return bool(self.clients)

    @property
    def page(self) -> bool:
        """Whether there is anyone who may see the page at /fleet."""
        return self.admin is not None or not self.required

    def right(self, token: str | None) -> Right:
        """What the bearer of a token may do. The admin's token also opens what a client's does."""
        digest = _digest(token or "")
        if self.admin is not None and hmac.compare_digest(digest, self.admin):
            return "admin"
        known = [hmac.compare_digest(digest, client) for client in self.clients]
        return "client" if any(known) or not self.required else "nobody"

    @staticmethod
    def name(token: str | None) -> str:
        """What stands for a token where buckets and sessions are kept apart."""
        return _digest(token)[:16] if token else "anonymous"


def read_secrets(
    tokens: Path | None, admin: Path | None, environ: Mapping[str, str] = os.environ
) -> Secrets:
    """From files, or the variables BEM_FLEET_API_TOKENS (comma-separated) and
    BEM_FLEET_ADMIN_TOKEN where no file is named.

    Raises:
        ConfigError: a file that others may read, an empty one, or a token that is too short.
    """
    where = str(tokens) if tokens else TOKENS_VARIABLE
    found = _lines(tokens) if tokens else environ.get(TOKENS_VARIABLE, "").split(",")
    clients = [token.strip() for token in found if token.strip()]
    if tokens and not clients:
        raise ConfigError(f"{tokens}: holds no token.")
    bosses = _lines(admin) if admin else [environ.get(ADMIN_VARIABLE, "").strip()]
    boss = next((token for token in bosses if token), None)
    if admin and boss is None:
        raise ConfigError(f"{admin}: holds no token.")
    for token in clients:
        _require_long(token, where)
    if boss is not None:
        _require_long(boss, str(admin) if admin else ADMIN_VARIABLE)
        if boss in clients:
            raise ConfigError("The admin's token is also a client's: give it one of its own.")
    return Secrets(
        clients=tuple(map(_digest, clients)), admin=None if boss is None else _digest(boss)
    )


def _lines(path: Path) -> list[str]:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {type(error).__name__}.") from None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        raise ConfigError(f"{path}: others may read it.", go_on=f"chmod 600 {path}")
    return [line.partition("#")[0].strip() for line in text.splitlines()]


def _require_long(token: str, where: str) -> None:
    if len(token) < _LEAST_LENGTH:
        raise ConfigError(
            f"{where}: a token has {len(token)} characters; give at least {_LEAST_LENGTH}.",
            go_on="python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()

"""The fleet in a browser: a FastAPI application that reads ledgers and the registry, and no more.

`create_app` makes it; `fleet.py watch --web` runs it, a server may mount it. It opens every ledger
read-only, starts no Ray, and takes no order: everything that changes something is a command.
"""

from fleet.page.app import create_app
from fleet.page.traffic import TrafficRow

__all__ = ["TrafficRow", "create_app"]

"""Mixed batches: each row its own adapter, in one forward of one base.

Said by `RoutingContext(rows=("a", "b", "__base__", ...))`, done by `AdapterHost`.
"""

from bem.mixed.rows import BASE_ROW
from bem.mixed.stack import SlowRowsWarning

__all__ = ["BASE_ROW", "SlowRowsWarning"]

"""A/A calibration: what the pipeline does to arms that do not differ, and the badge that says so.

`regimes` draws scores of identical arms, `campaign` sends them through table, judge and family,
`badge` keeps the outcome with a digest of the code that it is about. Knows no mission.
"""

from __future__ import annotations

from stats.calibration.badge import Badge, Standing, load_badge, standing
from stats.calibration.campaign import Figures, Rate, run_campaigns

__all__ = ["Badge", "Figures", "Rate", "Standing", "load_badge", "run_campaigns", "standing"]

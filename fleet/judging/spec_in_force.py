"""The specification that a mission is judged by: frozen, swept, cancelled in part. Reads only.

Knows the ledger's reader and the plan's rules for leaving arms out; no scores.
"""

from __future__ import annotations

from fleet.ledger.reader import LedgerReader
from fleet.plan import select_arms
from missions.spec import MissionSpec


def spec_in_force(reader: LedgerReader, mission: str) -> MissionSpec:
    """The settled specification without the arms that were cancelled since."""
    spec = MissionSpec.model_validate_json(reader.settled_spec_json(mission))
    gone = reader.orders().arms.get(mission, ())
    return select_arms(spec, [arm for arm in spec.arms if arm not in gone]) if gone else spec

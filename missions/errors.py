"""Errors of the missions, all of them the user's to mend.

MissionError (ValueError)
|-- SpecError            a mission file, profile or --set that cannot be accepted
|-- UnknownMissionError  a mission id that is not registered
|-- BaseBelowFloorError  the base model lacks a skill that the mission needs
|-- LeakError            an item of test stands in a training stream
|-- NotServableError     an arm that cannot be served, with the reason
`-- LockedSplitError     test scores were asked for before the arm was frozen, or after it changed

Each carries one line of text only, so that it survives pickling between processes.
"""

from __future__ import annotations


class MissionError(ValueError):
    """Base of the tree."""


class SpecError(MissionError):
    """A mission file, profile or override is not valid; names file, field, value, allowed."""


class UnknownMissionError(MissionError):
    """No such mission; lists the known ones."""


class BaseBelowFloorError(MissionError):
    """The base model's measured skill is under the mission's stated floor."""


class LeakError(MissionError):
    """A held-out item was found in a training stream."""


class NotServableError(MissionError):
    """An arm that is no model to serve; says why."""


class LockedSplitError(MissionError):
    """Scores of the test split were asked for while the arm's settings were not frozen."""

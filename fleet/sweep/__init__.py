"""Sweeps: each arm's settings searched on dev before the mission is frozen and confirmed.

`halving` decides which trial comes next and which settings are chosen (pure), `trial` runs one
(no Ray), `tuning` lets Ray Tune run them, `settling` writes the choice into the specification.
"""

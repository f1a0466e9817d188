"""Planning a gate before money is spent: pass rules with their power, pilots, sizes that decide.

Import from the modules: `stats.planning.rules`, `stats.planning.gates`. The power of a single
t-test is in `stats.power`; here it is the power of a gate with all parts of its rule.
"""

"""Statistics for comparing trained methods over seeds and examples.

Knows numpy and scipy, pandas at its edge, and no model library. Import from the modules:
`stats.scores` (tables), `stats.verdict` (judge), `stats.gates` (configuration),
`stats.report` (figures and pages).
"""

"""BEM Fleet's orchestration: plans, runs, records and judges campaigns of missions."""

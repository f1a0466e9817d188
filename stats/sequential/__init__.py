"""Looking at figures before all seeds are in, without fooling oneself.

`interim` computes what is shown while a campaign runs (never a verdict), `futility` the chance
that it can still pass, `looks` the levels at which a plan may be decided early, `streams` a
confidence sequence for streams of examples. Import from the modules.
"""

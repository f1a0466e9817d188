"""From per-example scores to verdicts: the statistics actor and the commands that judge."""

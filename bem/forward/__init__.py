"""Parts of a forward of `AdapterHost`: wrapped linears, codes, causal state, the base alone."""

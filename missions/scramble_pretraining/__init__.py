"""Mission D: scramble-equivariant pre-training on a corpus with a lexical shortcut."""

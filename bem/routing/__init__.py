"""Where codes come from and how they are judged: chunks, balance, uncertainty, traces."""

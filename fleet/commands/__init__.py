"""One file a command: arguments in, calls out. Everything heavy is imported inside."""

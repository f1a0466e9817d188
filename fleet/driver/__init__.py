"""The driver of a launch: from the order to the exit code, with every worker group between."""

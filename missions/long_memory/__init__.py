"""Mission E: recall over long streams with a memory of fixed size."""

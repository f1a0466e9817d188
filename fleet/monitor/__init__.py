"""Readers of the ledger for people: live table, TensorBoard scalars."""

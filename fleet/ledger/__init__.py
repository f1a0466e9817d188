"""The fleet's record: SQLite, one writer, everything that happened and nothing that did not.

`writer.Ledger` writes (one process only), `reader.LedgerReader` reads from anywhere. Neither
knows Ray. Nothing is re-exported here: readers must not pay for the writer's imports.
"""

"""Promoted models: an immutable folder each, a row, aliases, and a chain of decisions.

    reader.RegistryReader     what there is: models, aliases, decisions; read-only, from anywhere
    writer.Registry           one writer: promote, set an alias, roll back, import
    promotion.promote_run     from a launch's verdict to a registered model
    transfer                  export and import of folders

Nothing is re-exported here: a reader must not pay for the writer's imports. It knows no Ray and no
server; whoever serves follows `RegistryReader.version`.
"""

"""The truth: tables, migrations, statements, views, named queries, the ledger. Only this room writes SQL."""

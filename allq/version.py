"""The version of the code; it stands in every model card and ledger event."""

__version__ = "0.1.0"

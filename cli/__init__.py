"""The Typer commands: parse, call, print."""

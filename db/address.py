"""A database's address for people: what is secret in it never reaches a message, a log or a report."""

from __future__ import annotations

from sqlalchemy import URL

from allq.text import without_rows

_SECRETS = ("password", "sslpassword", "oauth_client_secret")
"""Options of a PostgreSQL URL that are as secret as the password before the host."""


def shown(url: URL) -> str:
    """The URL with its password masked and without its options, of which some are passwords, too."""
    return url.set(query={}).render_as_string(hide_password=True)


def without_secrets(text: str, url: URL) -> str:
    """What a driver said, on one line, every secret of the URL masked in it and no row repeated."""
    text = " ".join(without_rows(text).split())
    secrets = [str(url.password or ""), *(str(url.query.get(name, "")) for name in _SECRETS)]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text

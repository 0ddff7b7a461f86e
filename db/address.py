"""A database's address for people: what is secret in it never reaches a message, a log or a report."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus

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
    written = {form for secret in secrets if secret for form in (secret, quote(secret, safe=""), quote_plus(secret))}
    for secret in sorted(written, key=len, reverse=True):
        # a short one stands in the middle of words, and what is left of these would give it away
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text

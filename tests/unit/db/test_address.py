"""What is said of a database's address and errors carries neither secrets nor rows."""

from __future__ import annotations

from sqlalchemy import make_url

from db.address import shown, without_secrets

URL = make_url("postgresql+psycopg://worker:s3cret@db.example/allq?sslpassword=other")


def test_no_secret_of_the_url_is_shown() -> None:
    assert shown(URL) == "postgresql+psycopg://worker:***@db.example/allq"
    assert without_secrets("no: s3cret, other\n", URL) == "no: ***, ***"
    assert without_secrets("for 'p@ss' (p%40ss)", make_url("postgresql://u:p%40ss@h/d")) == "for '***' (***)"


def test_a_short_secret_is_not_given_away_by_what_is_left_of_other_words() -> None:
    assert without_secrets("permission denied for r", make_url("postgresql://u:r@h/d")) == "permission denied for ***"


def test_a_driver_s_reason_repeats_no_row_however_many_lines_it_has() -> None:
    error = 'terminating connection\nCONTEXT:  COPY field, line 2: "7\tMeier,\nAnna/1.png"'
    assert without_secrets(error, URL) == "terminating connection"
    refused = "connection to server failed: Connection refused\n\tIs the server running?"
    assert without_secrets(refused, URL) == "connection to server failed: Connection refused Is the server running?"

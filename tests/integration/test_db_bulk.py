"""Many rows at once come out as they went in, whatever stands in them. On SQLite and on PostgreSQL."""

import sys
from datetime import UTC, datetime

import pytest

from db import bulk
from db.statements import on_sqlite, run

_KINDS = {
    "key": "bigint",
    "words": "text",
    "data": "bytea",
    "share": "double precision",
    "yes": "boolean",
    "moment": "timestamptz",
}
_MOMENT = datetime(2026, 2, 3, 4, 5, 6, 789_000, tzinfo=UTC)
_ROWS = [
    (1, "", b"", 0.1, True, _MOMENT),
    (2, None, None, None, None, None),
    (3, "NULL", b"NULL", -0.0, False, _MOMENT.replace(year=1)),
    (4, "{a,b}", b"{a,b}", sys.float_info.max, True, _MOMENT),
    (5, 'said "no"\\', b'"\\x00"', 5e-324, False, _MOMENT),
    (6, " \t\r\n:name %s %(name)s ", bytes(range(256)), 1e16, True, _MOMENT),
    (7, "\\\\\\", b"\\", 1 / 3, None, None),
    (8, "Köln \u202e\U0001f9a0", "Köln".encode(), 100.0, True, _MOMENT),
    ((1 << 63) - 1, "'; DROP TABLE event; --", b"'", 1.0, True, _MOMENT),
]


def test_updated_rows_hold_what_they_were_given(database):
    with database.begin() as conn:
        columns = ", ".join(f"{name} {kind}" for name, kind in _KINDS.items())
        conn.exec_driver_sql(f"CREATE TEMPORARY TABLE odd ({columns})")
        for key, *_ in _ROWS:
            run(conn, "INSERT INTO odd (key) VALUES (:key)", {"key": key})
        kinds = _KINDS if not on_sqlite(conn) else {name: kind for name, kind in _KINDS.items() if name != "moment"}
        rows = [row[: len(kinds)] for row in _ROWS]
        bulk.update(conn, "odd", kinds, rows)
        found = run(conn, f"SELECT {', '.join(kinds)} FROM odd ORDER BY key").all()
        assert [tuple(bytes(value) if type(value) is memoryview else value for value in row) for row in found] == rows


def test_rows_appended_where_missing_hold_what_they_were_given(database):
    with database.begin() as conn:
        if on_sqlite(conn):
            pytest.skip("PostgreSQL's way")
        columns = ", ".join(f"{name} {kind}" for name, kind in _KINDS.items())
        conn.exec_driver_sql(f"CREATE TEMPORARY TABLE odd (id serial, {columns}, UNIQUE NULLS NOT DISTINCT (data))")
        run(conn, "INSERT INTO odd (data) VALUES (:data)", {"data": b"\\"})
        written = bulk.insert_missing(conn, "odd", _KINDS, [row for row in _ROWS if row[2] is not None], order="data")
        assert [data for _, data in written] == sorted(row[2] for row in _ROWS if row[2] not in {None, b"\\"})
        found = run(conn, f"SELECT {', '.join(_KINDS)} FROM odd WHERE key IS NOT NULL ORDER BY key").all()
        assert [tuple(bytes(v) if type(v) is memoryview else v for v in row) for row in found] == [
            row for row in _ROWS if row[2] not in {None, b"\\"}
        ]

"""Many rows at once come out as they went in, whatever stands in them. On SQLite and on PostgreSQL."""

import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier

import pytest
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from allq.errors import AllqError, DatabaseDamaged, DatabaseUnreachable, NoRight, StoreError
from db import bulk
from db.database import Database
from db.statements import on_sqlite, run
from tests.databases import settings_for

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
        conn.exec_driver_sql(f"CREATE TEMPORARY TABLE odd (id serial, {columns}, UNIQUE (data))")
        run(conn, "INSERT INTO odd (data) VALUES (:data)", {"data": b"\\"})
        rows = [row for row in _ROWS if row[2] is not None]
        written = bulk.insert_missing(conn, "odd", _KINDS, rows, order="data", told=("id", "data"))
        assert [bytes(data) for _, data in written] == sorted(row[2] for row in _ROWS if row[2] not in {None, b"\\"})
        found = run(conn, f"SELECT {', '.join(_KINDS)} FROM odd WHERE key IS NOT NULL ORDER BY key").all()
        assert [tuple(bytes(v) if type(v) is memoryview else v for v in row) for row in found] == [
            row for row in _ROWS if row[2] not in {None, b"\\"}
        ]


def _refusing(conn, state):
    """Have PostgreSQL answer rows of the temporary table `odd` with an error of that code, or by ending the session."""
    act = f"RAISE EXCEPTION SQLSTATE '{state}'"
    if state == "57P01":
        act = "PERFORM pg_terminate_backend(pg_backend_pid())"
    for statement in (
        "CREATE TEMPORARY TABLE odd (id bigint)",
        f"CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {act}; RETURN NEW; END $$",
        "CREATE TRIGGER refuses BEFORE INSERT ON odd FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse()",
    ):
        conn.exec_driver_sql(statement)


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("42501", NoRight, "may not do this"),
        ("53100", StoreError, "out of disk"),
        ("53200", StoreError, "out of memory"),
        ("25006", StoreError, "read-only just now"),
        ("40P01", StoreError, "waited for each other (a deadlock). Nothing of it was kept; try again"),
        ("40001", StoreError, "because of another at the same time. Nothing of it was kept; try again"),
        ("57014", StoreError, "has broken off a statement"),
        ("57P01", DatabaseUnreachable, "has ended this session"),
        ("57P03", DatabaseUnreachable, "is starting up or shutting down"),
        ("XX001", DatabaseDamaged, "is damaged"),
    ],
)
def test_what_a_server_refuses_of_rows_written_at_once_is_told_as_of_any_other_statement(
    postgresql, tmp_path, state, kind, words
):
    url = postgresql.create()
    database = Database.open(settings_for(tmp_path, url))
    said = []
    for write in (
        lambda conn: run(conn, "INSERT INTO odd VALUES (1)"),
        lambda conn: bulk.insert(conn, "odd", ["id"], [(1,)]),
    ):
        with pytest.raises(AllqError) as caught, database.begin() as conn:
            _refusing(conn, state)
            write(conn)
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]
    assert said[0][0] is kind
    assert words in said[0][1]
    with database.begin() as conn:  # the pool holds no session that has ended
        run(conn, "SELECT 1")
    database.close()
    postgresql.drop(url)


def test_what_is_wrong_with_a_row_itself_is_told_as_it_is(postgresql, tmp_path):
    url = postgresql.create()
    database = Database.open(settings_for(tmp_path, url))
    for rows, error in (([(1,), (1,)], IntegrityError), ([(object(),)], ProgrammingError), ([("x",)], DataError)):
        with pytest.raises(error), database.begin() as conn:
            conn.exec_driver_sql("CREATE TEMPORARY TABLE odd (id bigint PRIMARY KEY)")
            bulk.insert(conn, "odd", ["id"], rows)
    database.close()
    postgresql.drop(url)


def test_one_of_two_that_wait_for_each_other_is_let_go_in_a_sentence_and_may_try_again(postgresql, tmp_path):
    url = postgresql.create()
    database = Database.open(settings_for(tmp_path, url))
    with database.begin() as conn:
        conn.exec_driver_sql("CREATE TABLE odd (id bigint PRIMARY KEY)")
    met = Barrier(2, timeout=30)

    def write(first, second):
        try:
            with database.begin() as conn:
                conn.exec_driver_sql("SET LOCAL deadlock_timeout = '50ms'")
                bulk.insert(conn, "odd", ["id"], [(first,)])
                met.wait()
                bulk.insert(conn, "odd", ["id"], [(second,)])
        except StoreError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(write, (1, 2), (2, 1)))
    assert sorted(map(bool, said)) == [False, True]
    assert "waited for each other" in next(filter(None, said))
    with database.read() as conn:
        assert run(conn, "SELECT count(*) FROM odd").scalar() == 2
    database.close()
    postgresql.drop(url)

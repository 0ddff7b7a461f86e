"""What a plan does not tell of a query, compared by words that PostgreSQL spells in its own way."""

from __future__ import annotations

import pytest

from db.schema import unplanned

# Each as allq could write it, then as pg_get_viewdef spells it: 14 and 15 alike, 16 to 18 alike.
SPELLED_BY_SERVERS = [
    (
        "SELECT b.id FROM b WHERE EXISTS (SELECT 1 FROM a x WHERE x.b_id = b.id AND x.d::double precision > 0.5 "
        "AND x.at < now() AND x.n::numeric(10,2) <> 3)",
        " SELECT b.id\n   FROM b\n  WHERE (EXISTS ( SELECT 1\n           FROM a x\n          WHERE ((x.b_id = b.id) "
        "AND ((x.d)::double precision > (0.5)::double precision) AND (x.at < now()) "
        "AND ((x.n)::numeric(10,2) <> (3)::numeric))));",
        " SELECT id\n   FROM b\n  WHERE (EXISTS ( SELECT 1\n           FROM a x\n          WHERE ((x.b_id = b.id) "
        "AND ((x.d)::double precision > (0.5)::double precision) AND (x.at < now()) "
        "AND ((x.n)::numeric(10,2) <> (3)::numeric))));",
    ),
    (
        "SELECT b.id FROM b WHERE EXISTS (SELECT 1 FROM a x WHERE x.v IN ('p', 'q') AND x.t NOT IN ('r', 's') "
        "AND x.t != 'z')",
        " SELECT b.id\n   FROM b\n  WHERE (EXISTS ( SELECT 1\n           FROM a x\n          WHERE (((x.v)::text = "
        "ANY ((ARRAY['p'::character varying, 'q'::character varying])::text[])) "
        "AND (x.t <> ALL (ARRAY['r'::text, 's'::text])) AND (x.t <> 'z'::text))));",
        " SELECT id\n   FROM b\n  WHERE (EXISTS ( SELECT 1\n           FROM a x\n          WHERE (((x.v)::text = "
        "ANY ((ARRAY['p'::character varying, 'q'::character varying])::text[])) "
        "AND (x.t <> ALL (ARRAY['r'::text, 's'::text])) AND (x.t <> 'z'::text))));",
    ),
    (
        "SELECT id, row_number() OVER (PARTITION BY a.b_id ORDER BY a.at ASC, a.id DESC) AS n FROM a",
        " SELECT a.id,\n    row_number() OVER (PARTITION BY a.b_id ORDER BY a.at, a.id DESC) AS n\n   FROM a;",
        " SELECT id,\n    row_number() OVER (PARTITION BY b_id ORDER BY at, id DESC) AS n\n   FROM a;",
    ),
    (
        "SELECT a.id, sum(a.n) OVER (ORDER BY CAST(a.at AS time), a.v::varchar(7) "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS n FROM a",
        " SELECT a.id,\n    sum(a.n) OVER (ORDER BY ((a.at)::time without time zone), ((a.v)::character varying(7)) "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS n\n   FROM a;",
        " SELECT id,\n    sum(n) OVER (ORDER BY ((at)::time without time zone), ((v)::character varying(7)) "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS n\n   FROM a;",
    ),
    (
        "SELECT a.id, lag(a.id) OVER (ORDER BY date_trunc('hour', a.at::timestamp), "
        "(a.at - now())::interval hour to minute) AS n FROM a",
        " SELECT a.id,\n    lag(a.id) OVER (ORDER BY (date_trunc('hour'::text, (a.at)::timestamp without time zone)), "
        "(((a.at - now()))::interval hour to minute)) AS n\n   FROM a;",
        " SELECT id,\n    lag(id) OVER (ORDER BY (date_trunc('hour'::text, (at)::timestamp without time zone)), "
        "(((at - now()))::interval hour to minute)) AS n\n   FROM a;",
    ),
    (
        "SELECT b.id FROM b WHERE NOT EXISTS (SELECT 1 FROM a x INNER JOIN a AS y ON y.id = x.id LEFT OUTER JOIN b c "
        "ON c.id = y.b_id WHERE x.b_id = b.id AND x.at >= '2020-01-01 00:00:00+00')",
        " SELECT b.id\n   FROM b\n  WHERE (NOT (EXISTS ( SELECT 1\n           FROM ((a x\n             JOIN a y ON "
        "((y.id = x.id)))\n             LEFT JOIN b c ON ((c.id = y.b_id)))\n          WHERE ((x.b_id = b.id) "
        "AND (x.at >= '2020-01-01 00:00:00+00'::timestamp with time zone)))));",
        " SELECT id\n   FROM b\n  WHERE (NOT (EXISTS ( SELECT 1\n           FROM ((a x\n             JOIN a y ON "
        "((y.id = x.id)))\n             LEFT JOIN b c ON ((c.id = y.b_id)))\n          WHERE ((x.b_id = b.id) "
        "AND (x.at >= '2020-01-01 00:00:00+00'::timestamp with time zone)))));",
    ),
    (
        "SELECT b.id FROM b WHERE EXISTS (SELECT 1 FROM a WHERE a.t = ANY ('{p,q}'::text[]) AND a.b_id = b.id "
        "AND a.t LIKE 'p::q%')",
        " SELECT b.id\n   FROM b\n  WHERE (EXISTS ( SELECT 1\n           FROM a\n          WHERE ((a.t = "
        "ANY ('{p,q}'::text[])) AND (a.b_id = b.id) AND (a.t ~~ 'p::q%'::text))));",
        " SELECT id\n   FROM b\n  WHERE (EXISTS ( SELECT 1\n           FROM a\n          WHERE ((a.t = "
        "ANY ('{p,q}'::text[])) AND (a.b_id = b.id) AND (a.t ~~ 'p::q%'::text))));",
    ),
]


@pytest.mark.parametrize(("written", "until_15", "since_16"), SPELLED_BY_SERVERS)
def test_a_query_is_the_same_as_any_version_of_the_server_spells_it(written: str, until_15: str, since_16: str) -> None:
    assert unplanned.same(written, until_15)
    assert unplanned.same(written, since_16)
    assert unplanned.same(until_15, since_16)


@pytest.mark.parametrize("inside", ["double precision", "timestamp with time zone", "character varying(9)[]"])
def test_a_cast_of_several_words_ends_where_its_type_does(inside: str) -> None:
    one, other = "SELECT 1 WHERE EXISTS (SELECT a.x WITH)", f"SELECT 1 WHERE EXISTS (SELECT a.x::{inside} WITH)"
    assert unplanned.same(one, other)
    assert not unplanned.same(one, other.replace("WITH", "WITHOUT"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT lag(x) OVER (ORDER BY a.id) FROM a", "SELECT lag(x) OVER (ORDER BY a.id DESC) FROM a"),
        ("SELECT lag(x) OVER (ORDER BY a.id) FROM a, b", "SELECT lag(x) OVER (ORDER BY b.id) FROM a, b"),
        (
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM a WHERE t IN ('p'))",
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM a WHERE t IN ('q'))",
        ),
        (
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM a WHERE t IN ('p', 'q'))",
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM a WHERE t NOT IN ('p', 'q'))",
        ),
        ("SELECT 1 WHERE EXISTS (SELECT '::text')", "SELECT 1 WHERE EXISTS (SELECT '')"),
        ("SELECT x FROM a LIMIT 1", "SELECT x FROM a"),
        ("SELECT count(DISTINCT x) AS n FROM a", 'SELECT count(x) AS n, 1 AS "distinct" FROM a'),
        ("SELECT 1 WHERE EXISTS (SELECT a.x::time)", "SELECT 1 WHERE EXISTS (SELECT a.x::time AND false)"),
    ],
)
def test_a_query_that_says_something_else_is_another(one: str, other: str) -> None:
    assert unplanned.same(one, one)
    assert not unplanned.same(one, other)
    assert not unplanned.same(other, one)

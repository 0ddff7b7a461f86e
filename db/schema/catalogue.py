"""What PostgreSQL's catalogue is asked about the schema in which allq's tables stand. Any login may ask all of it.

What is asked is PostgreSQL's own, whatever stands in the schemas of search_path: tables and functions are called by
their schema, and operators compare two of one type, for which none but PostgreSQL's is taken.
"""

from __future__ import annotations

from typing import Final

OURS: Final = """
    (SELECT relnamespace FROM pg_catalog.pg_class
     WHERE oid = coalesce(pg_catalog.to_regclass('event'::text), pg_catalog.to_regclass('leaf'::text),
                          pg_catalog.to_regclass('checkpoint'::text), pg_catalog.to_regclass('finding'::text))::oid)
""".strip()
"""Where `event` stands; were it gone, the others would still be there."""

RELATIONS: Final = f"""
    SELECT c.relname, c.relkind::text, c.relpersistence::text, c.relrowsecurity,
           pg_catalog.pg_table_is_visible(c.oid) AS visible,
           pg_catalog.has_table_privilege(c.oid, 'SELECT'::text) AS readable, coalesce(c.reloptions, '{{}}') AS options
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace = {OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

INHERITANCE: Final = f"""
    SELECT i.inhrelid::regclass::text, CASE WHEN c.relnamespace = {OURS} THEN c.relname END,
           i.inhparent::regclass::text, CASE WHEN p.relnamespace = {OURS} THEN p.relname END
    FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
    WHERE c.relkind IN ('r', 'p', 'f') AND {OURS} IN (c.relnamespace, p.relnamespace)
    ORDER BY 1, 3
"""

COLUMNS: Final = f"""
    SELECT c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
           t.typnamespace = 'pg_catalog'::regnamespace::oid AS own_type, t.typtype::text, a.attnotnull,
           a.attidentity::text, a.attgenerated::text, pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS value,
           a.attcollation = t.typcollation AS own_collation
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = {OURS} AND c.relkind IN ('r', 'v') AND a.attnum > 0::int2 AND NOT a.attisdropped
    ORDER BY c.relname, a.attnum
"""

TRIGGERS: Final = f"""
    SELECT c.relname, t.tgname, t.tgenabled::text AS enabled, t.tgisinternal,
           pg_catalog.pg_get_triggerdef(t.oid, true) AS definition, p.proname, p.prosrc, l.lanname,
           p.proconfig IS NULL AS plain
    FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE c.relnamespace = {OURS} ORDER BY c.relname, t.tgname
"""

_NONE_OF_THE_SERVERS: Final = """
    d.refclassid IN ('pg_catalog.pg_proc'::regclass::oid, 'pg_catalog.pg_operator'::regclass::oid)
    AND NOT EXISTS (  -- an extension's
        SELECT FROM pg_catalog.pg_depend e
        WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e'
    )
""".strip()
"""Of a row of pg_depend: that a function or an operator is needed. What PostgreSQL brings with it has no rows there."""

INDEXES: Final = f"""
    SELECT i.relname AS name, c.relname AS of, x.indisunique, x.indisvalid,
           ARRAY(SELECT pg_catalog.pg_get_indexdef(x.indexrelid, k, true)
                 FROM pg_catalog.generate_series(1, x.indnkeyatts::int4) k) AS columns,
           pg_catalog.pg_get_expr(x.indpred, x.indrelid) AS condition,
           EXISTS (
               SELECT FROM pg_catalog.pg_constraint k
               WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x')
           ) AS of_constraint,
           EXISTS (
               SELECT FROM pg_catalog.pg_depend d
               WHERE d.classid = 'pg_catalog.pg_class'::regclass::oid AND d.objid = x.indexrelid
                 AND {_NONE_OF_THE_SERVERS}
           ) AS runs,
           ARRAY(SELECT n.relname::text FROM pg_catalog.pg_index o JOIN pg_catalog.pg_class n ON n.oid = o.indexrelid
                 WHERE x.indisunique AND o.indisunique AND o.indrelid = x.indrelid AND o.indexrelid <> x.indexrelid
                   AND o.indkey::text = x.indkey::text AND o.indclass::text = x.indclass::text
                   AND o.indcollation::text = x.indcollation::text AND o.indimmediate = x.indimmediate
                   AND o.indexprs IS NULL AND x.indexprs IS NULL AND o.indpred IS NULL AND x.indpred IS NULL
           ) AS refuses_as
    FROM pg_catalog.pg_index x
    JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
    JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
    WHERE c.relnamespace = {OURS}
"""

CONSTRAINTS: Final = f"""
    SELECT c.relname, k.conname, k.contype::text, k.convalidated,
           CASE WHEN k.contype = 'c' THEN pg_catalog.pg_get_expr(k.conbin, k.conrelid) END AS condition,
           CASE WHEN k.contype = 'f'
                THEN pg_catalog.replace(
                         pg_catalog.pg_get_constraintdef(k.oid), f.oid::regclass::text, f.relname::text)
                ELSE pg_catalog.pg_get_constraintdef(k.oid) END AS definition,
           f.relnamespace = {OURS} AS own_reference,
           ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY n (num, place)
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n.num
                 ORDER BY n.place) AS columns,
           ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY n (num, place)
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = n.num
                 ORDER BY n.place) AS referenced
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    LEFT JOIN pg_catalog.pg_class f ON f.oid = k.confrelid
    WHERE c.relnamespace = {OURS} AND k.contype <> 't'  -- those are triggers, and told as such
    ORDER BY c.relname, k.conname
"""

RULES: Final = f"""
    SELECT c.relname, r.rulename
    FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
    WHERE c.relnamespace = {OURS} AND r.rulename <> '_RETURN' ORDER BY c.relname, r.rulename
"""

RUNNING: Final = f"""
    SELECT DISTINCT w.kind, w.name, w.of FROM (
        SELECT 'view' AS kind, c.relname AS name, c.relname AS of,
               'pg_catalog.pg_rewrite'::regclass::oid AS class, r.oid
        FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
        WHERE c.relnamespace = {OURS}
        UNION ALL
        SELECT 'constraint', k.conname, c.relname, 'pg_catalog.pg_constraint'::regclass::oid, k.oid
        FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
        WHERE c.relnamespace = {OURS}
        UNION ALL
        SELECT 'column', a.attname, c.relname, 'pg_catalog.pg_attrdef'::regclass::oid, v.oid
        FROM pg_catalog.pg_attrdef v
        JOIN pg_catalog.pg_class c ON c.oid = v.adrelid
        JOIN pg_catalog.pg_attribute a ON a.attrelid = v.adrelid AND a.attnum = v.adnum
        WHERE c.relnamespace = {OURS}
    ) w
    JOIN pg_catalog.pg_depend d ON d.classid = w.class AND d.objid = w.oid AND {_NONE_OF_THE_SERVERS}
    ORDER BY 1, 3, 2
"""
"""Views, constraints and columns' defaults that run a function or an operator of somebody's making."""

REPLICATION_ROLE: Final = "SHOW session_replication_role"
HAS_RIGHTS_TO_SET: Final = "SELECT pg_catalog.to_regclass('pg_catalog.pg_parameter_acl') IS NOT NULL"
"""From PostgreSQL 15 on; before, only superusers set what is theirs."""

PAST_TRIGGERS: Final = """
    SELECT DISTINCT r.rolname
    FROM pg_catalog.pg_parameter_acl p CROSS JOIN LATERAL pg_catalog.aclexplode(p.paracl) a
    JOIN pg_catalog.pg_roles r
        ON r.rolcanlogin AND NOT r.rolsuper
           AND (a.grantee = 0::oid OR pg_catalog.pg_has_role(r.oid, a.grantee, 'MEMBER'::text))
    JOIN pg_catalog.pg_roles g
        ON g.rolname IN ('allq_worker', 'allq_sealer', 'allq_reviewer', 'allq_reader')
           AND pg_catalog.pg_has_role(r.oid, g.oid, 'USAGE'::text)
    WHERE p.parname = 'session_replication_role' AND a.privilege_type = 'SET'
    ORDER BY r.rolname
"""
"""Logins in the groups of roles.sql that were given the right to set it. Who owns the tables or administers the server
passes triggers in other ways as well, and is not meant."""

PATH: Final = "SHOW search_path"
USER: Final = "SELECT current_user"
PLAIN_PATH: Final = "SET LOCAL search_path = pg_catalog"

SETTINGS: Final = """
    SELECT coalesce(r.rolname, ''), s.setdatabase <> 0::oid, s.setconfig
    FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
    WHERE s.setdatabase IN (
              0::oid, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
          )
      AND (s.setrole = 0::oid OR pg_catalog.has_database_privilege(
              s.setrole, pg_catalog.current_database()::text, 'CONNECT'::text))
    ORDER BY 1, 2
"""
"""What roles and databases start a session with: role (or empty, for all), in this database alone, name=value, …"""

SCHEMA: Final = f"SELECT nspname FROM pg_catalog.pg_namespace WHERE oid = {OURS}"

LOGINS: Final = f"""
    SELECT r.oid, r.rolname FROM pg_catalog.pg_roles r
    WHERE r.rolcanlogin
      AND pg_catalog.has_database_privilege(r.oid, pg_catalog.current_database()::text, 'CONNECT'::text)
      AND EXISTS (
          SELECT FROM pg_catalog.pg_class o
          WHERE o.relnamespace = {OURS} AND o.relname IN :names AND o.relkind IN ('r', 'v')
            AND (pg_catalog.has_any_column_privilege(r.oid, o.oid, 'SELECT, INSERT, UPDATE'::text)
                 OR pg_catalog.pg_has_role(r.oid, o.relowner, 'MEMBER'::text))
      )
"""
"""Roles that may enter, and read or write any of allq's tables and views: others' search_path is none of allq's."""

NAMESAKES: Final = f"""
    SELECT r.rolname, n.nspname, c.relname, c.relkind::text
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN ({LOGINS}) r ON pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE'::text)
    WHERE c.relname IN :names AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relnamespace <> {OURS}
    ORDER BY n.nspname, c.relname, r.rolname
"""
"""Tables and views of other schemas that are called as allq's, by each login that could see them."""

VIEW: Final = "SELECT pg_catalog.pg_get_viewdef(pg_catalog.to_regclass(:view ::text)::oid)"

STAND_INS: Final = """
    SELECT n.nspname FROM pg_catalog.pg_namespace n
    WHERE n.oid <> 'pg_catalog'::regnamespace::oid AND (
        EXISTS (
            SELECT FROM pg_catalog.pg_class o JOIN pg_catalog.pg_class c ON c.relname = o.relname
            WHERE o.relnamespace = n.oid AND c.relnamespace = 'pg_catalog'::regnamespace::oid
        ) OR EXISTS (
            SELECT FROM pg_catalog.pg_type o JOIN pg_catalog.pg_type c ON c.typname = o.typname
            WHERE o.typnamespace = n.oid AND c.typnamespace = 'pg_catalog'::regnamespace::oid
        ) OR EXISTS (
            SELECT FROM pg_catalog.pg_operator o
            JOIN pg_catalog.pg_operator c
                ON c.oprname = o.oprname AND c.oprleft = o.oprleft AND c.oprright = o.oprright
            WHERE o.oprnamespace = n.oid AND c.oprnamespace = 'pg_catalog'::regnamespace::oid
        ) OR EXISTS (
            SELECT FROM pg_catalog.pg_proc o
            JOIN pg_catalog.pg_proc c ON c.proname = o.proname AND c.proargtypes = o.proargtypes
            WHERE o.pronamespace = n.oid AND c.pronamespace = 'pg_catalog'::regnamespace::oid
              AND NOT EXISTS (  -- what an extension brought before PostgreSQL had it does the same
                  SELECT FROM pg_catalog.pg_depend e JOIN pg_catalog.pg_language l ON l.oid = o.prolang
                  WHERE e.classid = 'pg_catalog.pg_proc'::regclass::oid AND e.objid = o.oid AND e.deptype = 'e'
                    AND l.lanname IN ('c', 'internal')
              )
        )
    )
"""
"""Schemas with anything that PostgreSQL has as well. Where search_path names one before pg_catalog, that is taken."""

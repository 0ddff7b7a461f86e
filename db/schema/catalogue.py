"""What PostgreSQL's catalogue is asked about the schema in which allq's tables stand. Any login may ask all of it."""

from __future__ import annotations

from typing import Final

OURS: Final = "(SELECT relnamespace FROM pg_class WHERE oid = to_regclass('event'))"

RELATIONS: Final = f"""
    SELECT c.relname, c.relkind::text, c.relpersistence::text, c.relrowsecurity, pg_table_is_visible(c.oid) AS visible,
           has_table_privilege(c.oid, 'SELECT') AS readable, coalesce(c.reloptions, '{{}}') AS options
    FROM pg_class c
    WHERE c.relnamespace = {OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

INHERITANCE: Final = f"""
    SELECT i.inhrelid::regclass::text, CASE WHEN c.relnamespace = {OURS} THEN c.relname END,
           i.inhparent::regclass::text, CASE WHEN p.relnamespace = {OURS} THEN p.relname END
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
    WHERE c.relkind IN ('r', 'p', 'f') AND {OURS} IN (c.relnamespace, p.relnamespace)
    ORDER BY 1, 3
"""

COLUMNS: Final = f"""
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type,
           t.typnamespace = 'pg_catalog'::regnamespace AS own_type, t.typtype::text, a.attnotnull,
           a.attidentity::text, a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid) AS value,
           a.attcollation = t.typcollation AS own_collation
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = {OURS} AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY c.relname, a.attnum
"""

TRIGGERS: Final = f"""
    SELECT c.relname, t.tgname, t.tgenabled::text AS enabled, t.tgisinternal,
           pg_get_triggerdef(t.oid, true) AS definition, p.proname, p.prosrc, l.lanname, p.proconfig IS NULL AS plain
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
    JOIN pg_language l ON l.oid = p.prolang
    WHERE c.relnamespace = {OURS} ORDER BY c.relname, t.tgname
"""

INDEXES: Final = f"""
    SELECT i.relname AS name, c.relname AS of, x.indisunique, x.indisvalid,
           ARRAY(SELECT pg_get_indexdef(x.indexrelid, k, true) FROM generate_series(1, x.indnkeyatts) k) AS columns,
           pg_get_expr(x.indpred, x.indrelid) AS condition,
           EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
               AS of_constraint,
           EXISTS (
               SELECT FROM pg_depend d
               WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid AND d.refclassid = 'pg_proc'::regclass
                 AND NOT EXISTS (  -- an extension's
                     SELECT FROM pg_depend e
                     WHERE e.classid = 'pg_proc'::regclass AND e.objid = d.refobjid AND e.deptype = 'e'
                 )
           ) AS runs
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
    WHERE c.relnamespace = {OURS}
"""

CONSTRAINTS: Final = f"""
    SELECT c.relname, k.conname, k.contype::text, k.convalidated,
           CASE WHEN k.contype = 'c' THEN pg_get_expr(k.conbin, k.conrelid) END AS condition,
           CASE WHEN k.contype = 'f' THEN replace(pg_get_constraintdef(k.oid), f.oid::regclass::text, f.relname)
                ELSE pg_get_constraintdef(k.oid) END AS definition,
           f.relnamespace = {OURS} AS own_reference
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid LEFT JOIN pg_class f ON f.oid = k.confrelid
    WHERE c.relnamespace = {OURS} AND k.contype <> 't'  -- those are triggers, and told as such
    ORDER BY c.relname, k.conname
"""

RULES: Final = f"""
    SELECT tablename, rulename FROM pg_rules
    WHERE schemaname = (SELECT nspname FROM pg_namespace WHERE oid = {OURS}) ORDER BY tablename, rulename
"""

REPLICATION_ROLE: Final = "SELECT current_setting('session_replication_role')"

SETTINGS: Final = """
    SELECT coalesce(r.rolname, ''), s.setdatabase <> 0, s.setconfig
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
    WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND (s.setrole = 0 OR has_database_privilege(s.setrole, current_database(), 'CONNECT'))
    ORDER BY 1, 2
"""
"""What roles and databases start a session with: role (or empty, for all), in this database alone, name=value, …"""

SCHEMA: Final = f"SELECT nspname FROM pg_namespace WHERE oid = {OURS}"

NAMESAKES: Final = f"""
    SELECT r.rolname, n.nspname, c.relname, c.relkind::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_roles r ON r.rolcanlogin AND has_database_privilege(r.oid, current_database(), 'CONNECT')
                    AND has_schema_privilege(r.oid, n.oid, 'USAGE')
    WHERE c.relname IN :names AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relnamespace <> {OURS}
    ORDER BY n.nspname, c.relname, r.rolname
"""
"""Tables and views of other schemas that are called as allq's, by each login that could see them."""

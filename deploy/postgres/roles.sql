-- Who may do what in allq's PostgreSQL database. As a superuser, after the first `allq db upgrade` and after each later
-- one:
--
--     psql --set ON_ERROR_STOP=1 --file deploy/postgres/roles.sql allq
--
-- Five groups, which cannot log in themselves:
--
--   allq_owner     owns the tables; for `allq db upgrade`, and nothing else
--   allq_worker    for `allq submit`, `retry`, `cancel` and `allq worker`: changes what moves, and only appends to the rest
--   allq_sealer    for `allq audit seal`, which signs the ledger: appends leaves and checkpoints, which no other may, and of
--                  events those that tell of keys and backups
--   allq_reviewer  for people who sign off: reads everything, appends reviews and what the ledger says of them, and chooses
--                  the active model (`allq models activate`): whoever answers for the calls answers for what makes them,
--                  and a worker's machine that was taken over can't choose for everybody. A group of its own would keep
--                  nobody out: a batch names its model, and who submits may name any
--   allq_reader    for dashboards and statistics: reads the views, no table
--
-- Give each worker's machine and each person a login of their own, a member of one group. Workers may seal as well where
-- their logins are members of allq_sealer too; stronger is a login of its own, for a machine that reads no slides and
-- has the signing key alone:
--
--     CREATE ROLE "m.meier" LOGIN PASSWORD '…' IN ROLE allq_reviewer;
--     CREATE ROLE sealer LOGIN PASSWORD '…' IN ROLE allq_sealer;
--     CREATE ROLE allq_upgrade LOGIN PASSWORD '…' IN ROLE allq_owner;
--     ALTER ROLE allq_upgrade SET role TO allq_owner;   -- so that what it makes belongs to the group
--
-- It may be run any number of times: it takes away every right that these groups have in the schema, and every membership
-- of theirs in other roles, and gives what is stated below. It refuses a schema with a table or view for which nothing is
-- stated. Rights to the server's own functions are this database's alone; the groups are those of all its databases.

BEGIN;

DO $$
DECLARE
    role text;
    membership record;
BEGIN
    FOREACH role IN ARRAY ARRAY['allq_owner', 'allq_worker', 'allq_sealer', 'allq_reviewer', 'allq_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
        EXECUTE format(
            'ALTER ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role
        );
        -- What another role may do, this one may as its member: none is a member of any.
        FOR membership IN
            SELECT r.rolname AS granted,
                   CASE WHEN g.rolname IS NULL THEN '' ELSE format('GRANTED BY %I', g.rolname) END AS granted_by
            FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid LEFT JOIN pg_roles g ON g.oid = m.grantor
            WHERE m.member = role::regrole
        LOOP
            EXECUTE format('REVOKE %I FROM %I %s CASCADE', membership.granted, role, membership.granted_by);
        END LOOP;
    END LOOP;
END $$;

-- The right to UPDATE a column also lets a session hold rows (SELECT … FOR UPDATE), and others wait for as long as it
-- does: only workers have it, of what they write. Of `finding` that is all it gives: every UPDATE is refused by its trigger.
CREATE TEMPORARY TABLE stated (name text, role text, rights text) ON COMMIT DROP;
INSERT INTO stated VALUES
    -- What moves: a worker can't say afterwards who submitted a batch, or lay a field into another slide.
    ('batch', 'allq_worker', 'SELECT, INSERT (root, raw_root, queue, note, model_id, operator, settings),
                              UPDATE (slides, fields, skipped, registered_at, cancelled_at)'),
    ('slide', 'allq_worker', 'SELECT, INSERT, UPDATE (complete, fields, screened, failed, cancelled, duplicates,
                              call_due, slide_call_id, suspicion)'),
    ('chunk', 'allq_worker', 'SELECT, INSERT, UPDATE (state, fields, waiting, screened, failed, cancelled, linked,
                              attempt, crashes, owner, lease_until, published_at, started_at, ended_at)'),
    ('field', 'allq_worker', 'SELECT, INSERT (slide_id, chunk_id, path, raw_path, size, modified_ns),
                              UPDATE (chunk_id, finding_id, linked, duplicate, state, sha256, failure,
                              failure_sentence)'),
    -- What stays as it was written. Nobody chooses a number of what is told by the highest: an event far ahead would keep
    -- later ones from the seal, a slide's call or a review would stay its latest. Nor a time that the server sets.
    ('model', 'allq_worker', 'SELECT, INSERT (sha256, name, architecture, synthetic, configuration, code_version)'),
    ('finding', 'allq_worker', 'SELECT, INSERT (sha256, model_id, call, confidence, p_benign, p_early_pre_b, p_pre_b, p_pro_b,
                                suspicion, novelty, flags, leukocytes, suspects, width, height, quality, engine, code_version),
                                UPDATE (recorded_at)'),
    ('finding_leukocytes', 'allq_worker', 'SELECT, INSERT'),
    ('slide_call', 'allq_worker', 'SELECT, INSERT (slide_id, call, confidence, p_benign, p_early_pre_b, p_pre_b, p_pro_b,
                                   suspicion, upper_bound, flags, leukocytes, suspects, fields, screened, failed,
                                   cancelled)'),
    ('skipped', 'allq_worker', 'SELECT, INSERT'),
    ('event', 'allq_worker', 'SELECT, INSERT (kind, actor, batch_id, chunk_id, body)'),
    ('event_slide', 'allq_worker', 'SELECT, INSERT'),
    ('leaf', 'allq_worker', 'SELECT'),
    ('checkpoint', 'allq_worker', 'SELECT'),
    ('review', 'allq_worker', 'SELECT'),
    ('activation', 'allq_worker', 'SELECT'),
    ('alembic_version', 'allq_worker', 'SELECT'),
    ('sealer_event', 'allq_worker', 'SELECT'),
    -- Who seals reads the events and adds the tree over them; of events only those that tell of keys and backups: a view
    -- that takes no others is the way to them.
    ('event', 'allq_sealer', 'SELECT'),
    ('sealer_event', 'allq_sealer', 'SELECT, INSERT (kind, actor, body)'),
    ('event_slide', 'allq_sealer', 'SELECT'),
    ('leaf', 'allq_sealer', 'SELECT, INSERT'),
    ('checkpoint', 'allq_sealer', 'SELECT, INSERT'),
    ('alembic_version', 'allq_sealer', 'SELECT'),
    -- A person who signs off adds a decision, and the event that tells of it. The latest activation is the one with the
    -- highest number: nobody chooses that either, nor its time.
    ('review', 'allq_reviewer', 'SELECT, INSERT (slide_id, slide_call_id, reviewer, call, reason, looked_at)'),
    ('model', 'allq_reviewer', 'SELECT, INSERT (sha256, name, architecture, synthetic, configuration, code_version)'),
    ('activation', 'allq_reviewer', 'SELECT, INSERT (model_id, activated_by, reason)'),
    ('event', 'allq_reviewer', 'SELECT, INSERT (kind, actor, batch_id, chunk_id, body)'),
    ('event_slide', 'allq_reviewer', 'SELECT, INSERT'),
    ('alembic_version', 'allq_reader', 'SELECT');

-- A reviewer reads every table; worker and reviewer read every view, and so does a reader.
INSERT INTO stated
SELECT name, 'allq_reviewer', 'SELECT'
FROM unnest(ARRAY['batch', 'slide', 'chunk', 'field', 'finding', 'finding_leukocytes', 'slide_call', 'skipped', 'leaf',
                  'checkpoint', 'alembic_version', 'sealer_event']) AS name;
INSERT INTO stated
SELECT name, role, 'SELECT'
FROM unnest(ARRAY['batch_progress', 'worklist', 'slide_findings', 'field_failures', 'model_use', 'model_activations',
                  'turnaround', 'slide_history', 'slide_reviews', 'review_queue']) AS name,
     unnest(ARRAY['allq_worker', 'allq_reviewer', 'allq_reader']) AS role;

DO $$
DECLARE
    schema text := current_schema();
    found record;
    unstated text;
BEGIN
    SELECT string_agg(c.relname, ', ' ORDER BY c.relname) INTO unstated
    FROM pg_class c
    WHERE c.relnamespace = schema::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')  -- an extension's
      AND NOT EXISTS (SELECT FROM stated s WHERE s.name = c.relname);
    IF unstated IS NOT NULL THEN
        RAISE EXCEPTION 'deploy/postgres/roles.sql states no rights for: %', unstated
            USING HINT = 'Use the file that came with this version of allq.';
    END IF;
    IF to_regclass('alembic_version') IS NULL THEN
        RAISE EXCEPTION 'there is no allq schema in this database' USING HINT = 'Run `allq db upgrade` first.';
    END IF;

    -- Nobody but the owner makes anything here, and nobody enters who is in none of the groups.
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC, allq_worker, allq_sealer, allq_reviewer, allq_reader',
                   current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO allq_owner, allq_worker, allq_sealer, allq_reviewer, allq_reader',
                   current_database());
    EXECUTE format('REVOKE ALL ON SCHEMA %I FROM PUBLIC, allq_owner, allq_worker, allq_sealer, allq_reviewer, allq_reader',
                   schema);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO allq_worker, allq_sealer, allq_reviewer, allq_reader', schema);
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO allq_owner', schema);

    -- A sequence that belongs to a column goes with its table.
    FOR found IN
        SELECT c.oid::regclass AS name FROM pg_class c JOIN stated s ON s.name = c.relname
        WHERE c.relnamespace = schema::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO allq_owner', found.name);
    END LOOP;
    FOR found IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE p.pronamespace = schema::regnamespace AND p.proname LIKE 'allq\_%'
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO allq_owner', found.name);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', found.name);
    END LOOP;

    FOR found IN SELECT unnest(ARRAY['TABLES', 'SEQUENCES']) AS kind LOOP
        EXECUTE format('REVOKE ALL ON ALL %s IN SCHEMA %I FROM PUBLIC, allq_worker, allq_sealer, allq_reviewer, allq_reader',
                       found.kind, schema);
    END LOOP;
    FOR found IN SELECT * FROM stated WHERE to_regclass(format('%I', name)) IS NOT NULL LOOP
        EXECUTE format('GRANT %s ON TABLE %I TO %I', found.rights, found.name, found.role);
    END LOOP;
    -- Numbers for rows that are written many at a time are drawn beforehand.
    GRANT USAGE ON SEQUENCE slide_id_seq, chunk_id_seq TO allq_worker;

    -- Who may set this passes every trigger. Before PostgreSQL 15 only superusers do, and there is no such right.
    IF to_regclass('pg_catalog.pg_parameter_acl') IS NOT NULL THEN
        EXECUTE 'REVOKE ALL ON PARAMETER session_replication_role '
                'FROM allq_owner, allq_worker, allq_sealer, allq_reviewer, allq_reader CASCADE';
    END IF;

    -- Who may take a lock may keep it, and all others wait; who may make a large object, or write to the server's log of
    -- changes without changing anything, may fill the disk. Reading large
    -- objects and giving locks back stays with everybody: a dump does the one, drivers that reuse a session the other.
    FOR found IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace
          AND (p.proname ~ '^pg_(try_)?advisory_(xact_)?lock(_shared)?$'
               OR p.proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_put', 'lo_truncate',
                                'lo_truncate64', 'lo_unlink', 'lowrite', 'pg_logical_emit_message'))
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, allq_owner, allq_worker, allq_sealer, allq_reviewer, '
                       'allq_reader', found.name);
    END LOOP;
END $$;

-- Sealing and upgrades lock by two numbers, the choice of the active model by one: neither can be held up by who may only
-- do the other.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_advisory_xact_lock(integer, integer) TO allq_owner, allq_sealer;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(integer, integer) TO allq_owner, allq_sealer;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_advisory_xact_lock(bigint) TO allq_owner, allq_reviewer;

COMMIT;

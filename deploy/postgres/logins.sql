-- The logins of docker-compose.yml, members of the groups that roles.sql makes; its service `roles` runs both files after
-- every upgrade. Passwords come from the environment, so that they stand in no list of processes.

\getenv worker WORKER_PASSWORD
\getenv sealer SEALER_PASSWORD
\getenv cli CLI_PASSWORD

SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['worker', 'sealer', 'cli']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

ALTER ROLE worker PASSWORD :'worker';
ALTER ROLE sealer PASSWORD :'sealer';
ALTER ROLE cli PASSWORD :'cli';
GRANT allq_worker TO worker, cli;
GRANT allq_sealer TO sealer;
GRANT allq_reviewer TO cli;

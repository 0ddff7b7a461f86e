-- Chunks being worked on: by whom, since when, and until when the lease holds.
SELECT c.id AS chunk, c.batch_id AS batch, b.queue, c.waiting AS fields, c.owner, c.attempt, c.started_at,
       c.lease_until AS lease_ends_at
FROM chunk c
JOIN batch b ON b.id = c.batch_id
WHERE c.state = 'running'
ORDER BY c.lease_until

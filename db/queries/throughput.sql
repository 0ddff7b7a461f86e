-- Fields screened, linked and failed by day (UTC on the server) and queue, newest day first.
SELECT substr(CAST(c.ended_at AS text), 1, 10) AS day, b.queue, count(DISTINCT b.id) AS batches,
       sum(c.screened) AS screened, sum(c.linked) AS findings_linked, sum(c.failed) AS failed
FROM chunk c
JOIN batch b ON b.id = c.batch_id
WHERE c.ended_at IS NOT NULL
GROUP BY substr(CAST(c.ended_at AS text), 1, 10), b.queue
ORDER BY day DESC, b.queue

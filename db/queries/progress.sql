-- The newest batches with their counters and throughput. Submitted = waiting + screened + failed + cancelled.
-- :limit  integer = 20  at most so many batches
SELECT batch, state, queue, slides, fields, waiting, screened, failed, cancelled, findings_linked, fields_per_second,
       created_at, finished_at, model, synthetic
FROM batch_progress
ORDER BY batch DESC
LIMIT :limit

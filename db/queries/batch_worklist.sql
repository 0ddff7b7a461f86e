-- The slides of one batch, most suspicious first.
-- :batch  integer  number of the batch
-- :limit  integer = 1000  at most so many slides
SELECT slide, call, round(CAST(suspicion AS numeric), 3) AS suspicion, flags, leukocytes, suspects,
       round(CAST(upper_bound AS numeric), 4) AS upper_bound, fields, screened, failed, cancelled
FROM worklist
WHERE batch = :batch
ORDER BY worklist.suspicion DESC, slide_id
LIMIT :limit

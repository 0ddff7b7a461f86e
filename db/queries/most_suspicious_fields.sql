-- The fields of one batch that look most like leukaemia, with where to find them.
-- :batch  integer  number of the batch
-- :limit  integer = 20  at most so many fields
SELECT slide, field, call, round(CAST(suspicion AS numeric), 3) AS suspicion,
       CASE WHEN call IS NOT NULL THEN round(CAST(confidence AS numeric), 3) END AS confidence,
       flags, leukocytes, suspects
FROM slide_findings
WHERE batch = :batch AND state = 'screened'
ORDER BY slide_findings.suspicion DESC, field_id
LIMIT :limit

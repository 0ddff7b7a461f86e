-- The fields of one batch that the model (or the database, for twins) wants a person to look at.
-- :batch  integer  number of the batch
SELECT slide, field, flags, call,
       CASE WHEN call IS NOT NULL THEN round(CAST(confidence AS numeric), 3) END AS confidence
FROM slide_findings
WHERE batch = :batch AND flags <> ''
ORDER BY field_id

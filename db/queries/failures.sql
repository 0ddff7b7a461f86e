-- The fields of one batch that could not be screened, and why. `allq retry` tries them again.
-- :batch  integer  number of the batch
SELECT slide, field, failure, failure_sentence, size, failed_at
FROM field_failures
WHERE batch = :batch
ORDER BY field_id

-- What lay under the submitted folder and was not taken for a field, and why.
-- :batch  integer  number of the batch
SELECT path, reason
FROM skipped
WHERE batch_id = :batch
ORDER BY id

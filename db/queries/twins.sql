-- Fields of one batch whose very bytes also lie in another folder: one of the two is misfiled. Folders are told apart by
-- their whole paths: slides of one name in two folders are two. Of whichever model.
-- :batch  integer  number of the batch
SELECT f.slide, f.field, o.batch AS other_batch, o.slide AS other_slide, o.field AS other_field, f.sha256
FROM slide_findings f
JOIN batch own_batch ON own_batch.id = f.batch
JOIN field own ON own.id = f.field_id
JOIN finding own_finding ON own_finding.id = own.finding_id
JOIN finding other_finding ON other_finding.sha256 = own_finding.sha256
JOIN field twin ON twin.finding_id = other_finding.id
JOIN slide_findings o ON o.field_id = twin.id
JOIN batch other_batch ON other_batch.id = o.batch
WHERE f.batch = :batch AND f.duplicate
  AND rtrim(own_batch.root, '/') || '/' || rtrim(own.path, replace(own.path, '/', ''))
   <> rtrim(other_batch.root, '/') || '/' || rtrim(twin.path, replace(twin.path, '/', ''))
ORDER BY f.field_id, o.field_id

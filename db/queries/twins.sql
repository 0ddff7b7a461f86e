-- Fields of one batch whose very bytes also lie in another slide's folder: one of the two is misfiled.
-- :batch  integer  number of the batch
SELECT f.slide, f.field, o.batch AS other_batch, o.slide AS other_slide, o.field AS other_field, f.sha256
FROM slide_findings f
JOIN field own ON own.id = f.field_id
JOIN field twin ON twin.finding_id = own.finding_id
JOIN slide_findings o ON o.field_id = twin.id AND o.slide <> f.slide
WHERE f.batch = :batch AND f.duplicate
ORDER BY f.field_id, o.field_id

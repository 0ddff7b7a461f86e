-- All calls ever made of a slide, oldest first; the last one of a batch is in force.
-- :slide  text  name of the slide (its accession)
SELECT s.batch_id AS batch, c.called_at, c.call, round(CAST(c.suspicion AS numeric), 3) AS suspicion, c.flags,
       c.leukocytes, c.suspects, c.fields, c.screened, c.failed, c.cancelled
FROM slide s
JOIN slide_call c ON c.slide_id = s.id
WHERE s.name = :slide
ORDER BY c.id

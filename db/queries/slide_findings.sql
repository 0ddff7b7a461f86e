-- Every field of a slide with what the model said and how sure it was; the latest submission first.
-- :slide  text  name of the slide (its accession)
SELECT batch, field, state, call,
       CASE WHEN call IS NOT NULL THEN round(CAST(confidence AS numeric), 3) END AS confidence,
       flags, round(CAST(suspicion AS numeric), 3) AS suspicion, round(CAST(novelty AS numeric), 3) AS novelty,
       leukocytes, suspects, failure, model
FROM slide_findings
WHERE slide = :slide
ORDER BY batch DESC, field_id

-- The slides that most need a look, over all batches: most suspicious first.
-- Research use: it ranks and documents; a named person decides.
-- :limit  integer = 20  at most so many slides
SELECT slide, batch, call, round(CAST(suspicion AS numeric), 3) AS suspicion, flags, leukocytes, suspects, fields,
       failed, called_at, model, synthetic
FROM worklist
ORDER BY worklist.suspicion DESC, slide_id DESC
LIMIT :limit

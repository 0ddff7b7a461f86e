-- The slides that most need a look, most suspicious first; what could not be judged counts as 0.5 at least.
-- Research use: it ranks and documents; a named person decides.
-- :batch  integer = 0  only this batch; 0 for all
-- :limit  integer = 20  at most so many slides
SELECT slide, batch, call, round(CAST(suspicion AS numeric), 3) AS suspicion, flags, leukocytes, suspects, fields,
       failed, cancelled, called_at, model, synthetic
FROM worklist
WHERE :batch = 0 OR batch = :batch
ORDER BY worklist.suspicion DESC, slide_id DESC
LIMIT :limit

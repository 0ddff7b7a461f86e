-- Slides whose latest call nobody has reviewed yet, most suspicious first; what could not be judged counts as 0.5 at least.
-- :limit  integer = 20  at most so many slides
SELECT slide, call, suspicion, batch, flags, leukocytes, suspects, called_at, queue, fields, failed, model, synthetic
FROM review_queue
ORDER BY suspicion DESC, slide_id DESC
LIMIT :limit

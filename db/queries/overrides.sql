-- Reviews that decided otherwise than the model, newest first.
-- :limit  integer = 50  at most so many reviews
SELECT slide, call, machine_call, reviewer, reason, decided_at, batch, model, synthetic
FROM slide_reviews
WHERE overruled
ORDER BY review DESC
LIMIT :limit

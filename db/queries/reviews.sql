-- Every decision on a slide, in the order in which they were recorded: who, what, why, when they looked and when they
-- signed. One that is dated before its call was dated back, or by a clock that was wrong.
-- :slide  text  name of the slide (its accession)
SELECT decided_at, reviewer, call, machine_call, overruled, reason, looked_at, called_at, batch, latest, model, synthetic
FROM slide_reviews
WHERE slide = :slide
ORDER BY review

-- Every decision on a slide, oldest first: who, what, why, when they looked and when they signed.
-- :slide  text  name of the slide (its accession)
SELECT decided_at, reviewer, call, machine_call, overruled, reason, looked_at, batch, latest, model, synthetic
FROM slide_reviews
WHERE slide = :slide
ORDER BY review

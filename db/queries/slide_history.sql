-- What happened to a slide, in the order in which it was recorded: who, what, and the ledger's words.
-- :slide  text  name of the slide (its accession)
SELECT at, batch, kind, actor, body
FROM slide_history
WHERE slide = :slide
ORDER BY event_id

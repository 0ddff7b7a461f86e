-- How each field's result came about: bytes, model, settings, code, worker, and who submitted, looked and decided, and why. The slide's newest review is shown; the query `reviews` has all.
-- :slide  text  name of the slide (its accession)
SELECT f.field, f.sha256, f.call, f.model, f.model_sha256, f.engine, f.code_version, b.settings,
       b.created_at AS submitted_at, b.operator AS submitted_by, f.recorded_at AS computed_at, done.actor AS computed_by,
       started.body AS worker_started, c.call AS slide_call, c.called_at, r.looked_at, r.reviewer, r.call AS decision,
       r.reason, r.decided_at, f.batch, f.state, f.failure
FROM slide_findings f
JOIN field x ON x.id = f.field_id
JOIN slide s ON s.id = f.slide_id
JOIN batch b ON b.id = f.batch
LEFT JOIN field own ON own.finding_id = x.finding_id AND own.finding_id IS NOT NULL AND NOT own.linked
LEFT JOIN event done ON done.chunk_id = coalesce(own.chunk_id, x.chunk_id) AND done.kind = 'chunk-recorded'
LEFT JOIN event started ON started.id = (
    SELECT max(w.id) FROM event w
    WHERE w.batch_id IS NULL AND w.chunk_id IS NULL AND w.kind = 'worker-started' AND w.actor = done.actor)
LEFT JOIN slide_call c ON c.id = s.slide_call_id
LEFT JOIN review r ON r.id = (SELECT max(y.id) FROM review y WHERE y.slide_id = f.slide_id)
WHERE f.slide = :slide
ORDER BY f.batch DESC, f.field_id

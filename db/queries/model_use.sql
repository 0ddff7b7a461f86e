-- Which models have been used, for how much, and since when. `inferred` fields were computed; of the others the finding was known.
SELECT model, architecture, synthetic, batches, screened, inferred, findings_linked, failed, first_used_at, last_used_at,
       model_sha256
FROM model_use
ORDER BY last_used_at DESC, model

-- Which model was active from when until when, newest first: who chose it, and why.
SELECT activated_at, superseded_at, model, activated_by, reason, active, architecture, synthetic, model_sha256
FROM model_activations
ORDER BY activation DESC

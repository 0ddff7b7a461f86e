-- How often fields failed for which reason, by batch, newest batch first.
SELECT batch, failure, count(*) AS fields, min(failure_sentence) AS for_example
FROM field_failures
GROUP BY batch, failure
ORDER BY batch DESC, fields DESC, failure

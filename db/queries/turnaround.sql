-- Seconds from submission to a slide's call, by queue: how many slides, the median, the 95th percentile, the longest.
WITH ranked AS (
    SELECT queue, seconds,
           row_number() OVER (PARTITION BY queue ORDER BY seconds) AS place,
           count(*) OVER (PARTITION BY queue) AS slides
    FROM turnaround
)
SELECT queue, max(slides) AS slides,
       min(CASE WHEN place * 2 >= slides THEN seconds END) AS median_seconds,
       min(CASE WHEN place * 100 >= slides * 95 THEN seconds END) AS p95_seconds,
       max(seconds) AS longest_seconds
FROM ranked
GROUP BY queue
ORDER BY queue

-- Semantic search over 100,000 rows: embed once, search as often as you like.
--
--   hfauto-pipe sql --model minilm=examples/models/mini-embedder -f examples/semantic_search.sql

-- The texts: each sample review under 37 headings, so that no two are the same.
CREATE VIEW texts AS
SELECT 10000 * n + id AS id, 'No. ' || n || ': ' || text AS text
FROM 'examples/data/reviews.parquet' CROSS JOIN generate_series(1, 37) AS numbers(n)
WHERE text IS NOT NULL
LIMIT 100000;

-- Once: the model runs on every row, and its vectors go to a file.
COPY (SELECT id, text, embed(text, 'minilm') AS embedding FROM texts) TO 'out/search.parquet';

-- For every question: the model runs on the question alone.
SELECT id, round(cosine_similarity(embedding, embed('a quiet room with a view of the harbour', 'minilm')), 4) AS score,
       text
FROM 'out/search.parquet'
ORDER BY score DESC, id
LIMIT 5;

"""Queries over tables of other libraries."""

import pytest

import hfauto_pipe

pa = pytest.importorskip("pyarrow")


def test_tables_of_several_libraries_are_joined(reviews, model):
    pl = pytest.importorskip("polars")
    topics = pl.DataFrame({"topic": ["boats on the sea", "a quiet room"]})
    query = """
        SELECT id, topic, cosine_similarity(embed(text, 'mini'), embed(topic, 'mini')) AS score
        FROM reviews, topics WHERE text IS NOT NULL ORDER BY id, topic
    """
    result = hfauto_pipe.sql(query, reviews=reviews, topics=topics, models={"mini": model})
    table = pa.table(result)
    assert table.column_names == ["id", "topic", "score"]
    known = len(reviews) - reviews["text"].null_count
    assert table.num_rows == 2 * known
    texts = hfauto_pipe.embed(reviews, column="text", model=model)["embedding"].to_pylist()
    topic = hfauto_pipe.embed(["boats on the sea"], model=model).to_pylist()[0]
    row = next(row for row in table.to_pylist() if row["topic"] == "boats on the sea")
    text = texts[reviews["id"].to_pylist().index(row["id"])]
    cosine = sum(a * b for a, b in zip(text, topic)) / (
        sum(a * a for a in text) ** 0.5 * sum(b * b for b in topic) ** 0.5
    )
    assert abs(row["score"] - cosine) < 1e-5


def test_a_query_gives_the_bits_of_the_function(reviews, model):
    query = f"SELECT embed(text, '{model}') AS e FROM t ORDER BY id"
    result = hfauto_pipe.sql(query, {"t": reviews.sort_by("id")})
    assert result["e"].to_pylist() == hfauto_pipe.embed(reviews.sort_by("id")["text"], model=model).to_pylist()


def test_a_column_is_a_table_of_one_column():
    result = hfauto_pipe.sql("SELECT upper(words) AS w FROM words", words=["a", None])
    assert result.to_pylist() == [{"w": "A"}, {"w": None}]


def test_files_are_tables(repository):
    query = f"SELECT count(*) AS n FROM '{repository}/examples/data/reviews.parquet'"
    assert hfauto_pipe.sql(query).to_pylist() == [{"n": 2745}]


def test_statements_that_write_are_refused(tmp_path):
    for query in [
        "CREATE TABLE t AS SELECT 1",
        f"COPY (SELECT 1) TO '{tmp_path}/x.parquet'",
        "INSERT INTO t VALUES (1)",
        "SET datafusion.execution.batch_size = 1",
    ]:
        with pytest.raises(hfauto_pipe.Error):
            hfauto_pipe.sql(query, t=["a"])
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_the_program_s(tmp_path):
    with pytest.raises(hfauto_pipe.ConfigError, match="missing") as error:
        hfauto_pipe.sql("SELECT * FROM missing")
    assert error.value.kind == "config" and error.value.exit_code == 78
    with pytest.raises(hfauto_pipe.ConfigError):
        hfauto_pipe.sql("SELEC 1")
    with pytest.raises(hfauto_pipe.ConfigError, match="embed"):
        hfauto_pipe.sql("SELECT embed(w, 'm', 5) FROM w", w=["a"])
    with pytest.raises(hfauto_pipe.UsageError, match="a model is a hub id"):
        hfauto_pipe.sql("SELECT 1", models={"m": 5})

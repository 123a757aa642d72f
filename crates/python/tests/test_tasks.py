"""The functions of the tasks: every kind of table and column, and the results of the pipelines."""

import inspect
import json

import pytest
from conftest import REPOSITORY

import hfauto_pipe
from hfauto_pipe import _functions

pa = pytest.importorskip("pyarrow")


def vectors(result):
    return result.to_pylist()


def test_a_table_gets_one_more_column(reviews, model):
    result = hfauto_pipe.embed(reviews, column="text", model=model)
    assert isinstance(result, hfauto_pipe.Table)
    assert result.column_names == [*reviews.column_names, "embedding"]
    assert len(result) == result.num_rows == len(reviews)
    table = pa.table(result)
    assert table.drop_columns("embedding").equals(reviews)
    assert table.schema.field("embedding").type.list_size == 160
    assert table["embedding"].is_null().equals(table["text"].is_null())


def test_a_column_gives_a_column(reviews, model):
    texts = reviews["text"]
    of_table = vectors(hfauto_pipe.embed(reviews, column="text", model=model)["embedding"])
    column = hfauto_pipe.embed(texts, model=model)
    assert isinstance(column, hfauto_pipe.Array) and len(column) == len(texts)
    assert pa.chunked_array(column).to_pylist() == of_table
    assert pa.array(column).to_pylist() == of_table
    assert vectors(column) == of_table
    assert vectors(hfauto_pipe.embed(texts.combine_chunks(), model=model)) == of_table
    assert vectors(hfauto_pipe.embed(texts.to_pylist(), model=model)) == of_table


def test_the_order_of_many_chunks_stays(model):
    texts = [f"number {i}" for i in range(40)]
    chunks = pa.chunked_array([texts[:1], texts[1:7], [], texts[7:]])
    table = pa.table({"text": chunks, "id": range(40)})
    result = pa.table(hfauto_pipe.token_count(table, model=model, output="tokens"))
    assert result["id"].to_pylist() == list(range(40))
    assert result["tokens"].to_pylist() == hfauto_pipe.token_count(texts, model=model).to_pylist()


def test_no_rows_give_no_rows(model):
    empty = pa.table({"text": pa.array([], pa.string())})
    assert pa.table(hfauto_pipe.embed(empty, model=model)).num_rows == 0
    assert hfauto_pipe.embed([], model=model).to_pylist() == []
    assert pa.array(hfauto_pipe.embed([], model=model)).to_pylist() == []


@pytest.mark.parametrize("text_type", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_every_type_of_text_is_read(text_type, model):
    texts = pa.array(["a boat", None, "a boat"])
    expected = hfauto_pipe.embed(texts, model=model).to_pylist()
    assert expected[1] is None and expected[0] == expected[2]
    if text_type == pa.string_view():
        column = pa.array(texts.to_pylist(), pa.string_view())
    else:
        column = texts.cast(text_type)
    assert hfauto_pipe.embed(column, model=model).to_pylist() == expected


def test_record_batches_are_tables(reviews, model):
    batch = reviews.to_batches()[0]
    result = pa.table(hfauto_pipe.token_count(batch, column="text", model=model, output="n"))
    assert result.column_names == [*batch.schema.names, "n"]


def test_polars(reviews, model):
    pl = pytest.importorskip("polars")
    frame = pl.from_arrow(reviews)
    expected = hfauto_pipe.embed(reviews, column="text", model=model)["embedding"].to_pylist()
    result = pl.DataFrame(hfauto_pipe.embed(frame, column="text", model=model))
    assert result.columns == [*frame.columns, "embedding"]
    assert result["embedding"].to_list() == expected
    assert result.drop("embedding").equals(frame)
    assert pl.Series(hfauto_pipe.embed(frame["text"], model=model)).to_list() == expected


def test_pandas(reviews, model):
    pytest.importorskip("pandas", minversion="2.2")
    frame = reviews.to_pandas()
    expected = hfauto_pipe.embed(reviews, column="text", model=model)["embedding"].to_pylist()
    result = pa.table(hfauto_pipe.embed(frame, column="text", model=model))
    assert result["embedding"].to_pylist() == expected
    back = result.to_pandas()
    assert list(back.columns) == [*frame.columns, "embedding"]
    if hasattr(frame["text"], "__arrow_c_stream__"):
        assert hfauto_pipe.embed(frame["text"], model=model).to_pylist() == expected


def test_duckdb(reviews, model):
    duckdb = pytest.importorskip("duckdb")
    relation = duckdb.sql("SELECT id, text FROM reviews ORDER BY id")
    result = hfauto_pipe.embed(relation, column="text", model=model)
    rows = duckdb.sql("SELECT count(*), count(embedding) FROM result").fetchall()
    assert rows == [(len(reviews), len(reviews) - reviews["text"].null_count)]


def test_every_task_has_a_function_with_a_signature_and_a_docstring():
    assert len(_functions.TASKS) > 15
    for name, function in _functions.TASKS.items():
        assert getattr(hfauto_pipe, name) is function and name in hfauto_pipe.__all__
        parameters = inspect.signature(function).parameters
        assert list(parameters)[:4] == ["data", "column", "model", "output"]
        assert parameters["model"].default is None
        assert {"max_length", "offline", "progress"} <= set(parameters)
        for parameter in parameters:
            assert f"\n{parameter} : " in function.__doc__, (name, parameter)
    assert "candidate_labels" in inspect.signature(hfauto_pipe.zero_shot).parameters
    assert "pooling" in inspect.signature(hfauto_pipe.embed).parameters


def pipelines():
    """Those whose last step makes a column of its rows: `chunk` makes other rows."""
    paths = (path for path in (REPOSITORY / "pipelines").glob("*.yaml") if path.stem != "chunk")
    return sorted(paths, key=lambda path: path.name)


@pytest.mark.parametrize("path", pipelines(), ids=lambda path: path.stem)
def test_a_function_gives_the_column_of_the_step(path, tmp_path, monkeypatch):
    yaml = pytest.importorskip("yaml")
    pq = pytest.importorskip("pyarrow.parquet")
    pipeline = yaml.safe_load(path.read_text())
    (task, step), = pipeline["steps"][-1].items()
    out = tmp_path / "out.parquet"
    options = {"source.limit": 8, "sink.path": str(out)}
    hfauto_pipe.run(path, set=options, progress=False)
    written = pq.read_table(out)
    output, given, alias = step.pop("output"), step.pop("input"), step.pop("model")
    rows = written.drop_columns(output)
    model = {**pipeline["models"][alias]}
    model["repo"] = str((path.parent / model["repo"]).resolve())
    function = next(
        getattr(hfauto_pipe, declared["function"])
        for declared in _functions._DECLARED["tasks"]
        if declared["id"] == task
    )
    # Images are paths relative to the folder of the pipeline.
    monkeypatch.chdir(path.parent)
    result = pa.table(function(rows, column=given, model=model, output=output, **step))
    assert result.column_names == [*rows.column_names, output]
    assert result[output].to_pylist() == written[output].to_pylist()


def test_chunk_gives_a_list_for_each_text(model):
    text = "The little inn by the harbour was quiet. The bread was still warm."
    whole, missing = hfauto_pipe.chunk([text, None], model=model).to_pylist()
    assert whole == [{"chunk": text, "index": 0, "start": 0, "end": len(text)}] and not missing
    several, = hfauto_pipe.chunk([text], model=model, max_tokens=14).to_pylist()
    assert [chunk["index"] for chunk in several] == list(range(len(several))) and len(several) > 1
    assert all(text[chunk["start"] : chunk["end"]] == chunk["chunk"] for chunk in several)


def test_a_task_of_several_columns_reads_those_of_its_names(repository):
    model = str(repository / "tests/golden/tasks/bert-rerank")
    pairs = pa.table({"query": ["a", "b"], "document": ["c", "d"]})
    named = hfauto_pipe.rerank(pairs, model=model, output="score")
    renamed = pairs.rename_columns(["q", "d"])
    columns = {"query": "q", "document": "d"}
    assert hfauto_pipe.rerank(renamed, columns, model=model)["score"].to_pylist() == named["score"].to_pylist()
    with pytest.raises(hfauto_pipe.UsageError, match="several columns, `query`, `document`"):
        hfauto_pipe.rerank(["a"], model=model)


def test_the_only_text_column_is_read(model):
    table = pa.table({"id": [1, 2], "title": ["a boat", "a train"]})
    result = hfauto_pipe.embed(table, model=model)
    assert result["embedding"].to_pylist() == hfauto_pipe.embed(table["title"], model=model).to_pylist()
    two = table.append_column("body", pa.array(["x", "y"]))
    with pytest.raises(hfauto_pipe.ConfigError, match="no column `text`") as error:
        hfauto_pipe.embed(two, model=model)
    assert "`title`" in str(error.value) and "`column`" in str(error.value)


def test_options_are_those_of_the_task(model):
    texts = ["a boat", "a train"]
    short = hfauto_pipe.embed(texts, model=model, dimensions=16, normalize=True).to_pylist()
    assert [len(vector) for vector in short] == [16, 16]
    with pytest.raises(hfauto_pipe.ConfigError, match="unknown key `poolin`") as error:
        hfauto_pipe.embed(texts, model=model, poolin="cls")
    assert "did you mean `pooling`" in str(error.value)
    with pytest.raises(hfauto_pipe.ConfigError, match="expected true or false"):
        hfauto_pipe.embed(texts, model=model, normalize="yes")
    of_default = hfauto_pipe.embed(texts).to_pylist()
    assert of_default == hfauto_pipe.embed(texts, model=model).to_pylist()
    with pytest.raises(TypeError, match="candidate_labels"):
        hfauto_pipe.zero_shot(texts, model=model)


def test_a_model_is_given_as_in_a_pipeline_file(model):
    texts = ["a boat", "a train"]
    plain = hfauto_pipe.embed(texts, model=model).to_pylist()
    assert hfauto_pipe.embed(texts, model={"repo": model, "dtype": "f32"}).to_pylist() == plain
    with pytest.raises(hfauto_pipe.ConfigError, match="dtyp"):
        hfauto_pipe.embed(texts, model={"repo": model, "dtyp": "f32"})
    with pytest.raises(hfauto_pipe.UsageError, match="`repo`"):
        hfauto_pipe.embed(texts, model={"dtype": "f32"})


def test_what_is_no_table_is_refused(reviews, model):
    for data in ["a text", 5, {"text": ["a"]}, object()]:
        with pytest.raises(TypeError, match="Arrow PyCapsule interface"):
            hfauto_pipe.embed(data, model=model)
    with pytest.raises(TypeError, match="item 1 of the list is `int`"):
        hfauto_pipe.embed(["a", 5], model=model)
    with pytest.raises(hfauto_pipe.ConfigError, match="expected text"):
        hfauto_pipe.embed(reviews, column="id", model=model)
    with pytest.raises(hfauto_pipe.ConfigError, match="column `text` already exists"):
        hfauto_pipe.embed(reviews, column="text", model=model, output="text")
    with pytest.raises(hfauto_pipe.ConfigError, match="did you mean `text`"):
        hfauto_pipe.embed(reviews, column="texts", model=model)
    with pytest.raises(hfauto_pipe.UsageError, match="leave `column` out"):
        hfauto_pipe.embed(["a"], column="text", model=model)


def test_a_reader_that_fails_is_an_error(model):
    def batches():
        yield pa.record_batch({"text": ["a"]})
        raise OSError("the disk is gone")

    schema = pa.schema({"text": pa.string()})
    reader = pa.RecordBatchReader.from_batches(schema, batches())
    with pytest.raises(hfauto_pipe.DataError, match="the disk is gone"):
        hfauto_pipe.embed(reader, model=model)


def test_a_directory_that_was_saved_again_is_read_again(model, tmp_path):
    import os
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    before = hfauto_pipe.embed(["a boat"], model=str(copy)).to_pylist()
    pooling = copy / "1_Pooling/config.json"
    settings = json.loads(pooling.read_text())
    settings = {**settings, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    pooling.write_text(json.dumps(settings))
    os.utime(pooling, (1, 1))
    after = hfauto_pipe.embed(["a boat"], model=str(copy)).to_pylist()
    assert before != after
    assert after == hfauto_pipe.embed(["a boat"], model=model, pooling="cls").to_pylist()


def test_values_without_another_library(model, repository):
    result = hfauto_pipe.sql(
        "SELECT 1 AS a, 'x' AS b, true AS c, NULL AS d, 0.5 AS e, [1, 2] AS f, "
        "named_struct('g', 1, 'h', 'y') AS i, arrow_cast('z', 'Dictionary(Int32, Utf8)') AS j"
    )
    row = {"a": 1, "b": "x", "c": True, "d": None, "e": 0.5, "f": [1, 2], "i": {"g": 1, "h": "y"}, "j": "z"}
    assert result.to_pylist() == [row]
    assert result["b"].to_pylist() == ["x"]
    with pytest.raises(KeyError, match="no column `z`"):
        result["z"]
    with pytest.raises(TypeError, match="pyarrow"):
        hfauto_pipe.sql("SELECT DATE '2026-01-01' AS day").to_pylist()
    assert repr(result).startswith("hfauto_pipe.Table of 1 rows\n  a: Int64\n")

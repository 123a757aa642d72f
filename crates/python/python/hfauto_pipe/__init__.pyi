"""Hugging Face models over tables."""

# Written by crates/python/stubs.py from the declarations of the program.

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Protocol, overload

__version__: str

class ArrowStreamExportable(Protocol):
    """A table or a column in chunks: of pyarrow, polars, DuckDB, pandas."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

class ArrowArrayExportable(Protocol):
    """A record batch or a column."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...

class Array:
    """An Arrow column, in chunks. `pyarrow.chunked_array(array)` and `polars.Series(array)` read it without copies."""

    def __len__(self) -> int: ...
    def to_pylist(self) -> list[Any]: ...
    def __arrow_c_schema__(self) -> object: ...
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

class Table:
    """A table of Arrow columns. `pyarrow.table(table)`, `polars.from_arrow(table)` and DuckDB read it without copies."""

    @property
    def num_rows(self) -> int: ...
    @property
    def column_names(self) -> list[str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, name: str) -> Array: ...
    def to_pylist(self) -> list[dict[str, Any]]: ...
    def __arrow_c_schema__(self) -> object: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

class Error(Exception):
    """An error of hfauto-pipe: a subclass for each kind, with the program's text."""

    kind: str
    exit_code: int

class UsageError(Error):
    """An error of kind `usage`: exit code 64."""

class ConfigError(Error):
    """An error of kind `config`: exit code 78."""

class NoInputError(Error):
    """An error of kind `no_input`: exit code 66."""

class DataError(Error):
    """An error of kind `data`: exit code 65."""

class HubError(Error):
    """An error of kind `hub`: exit code 69."""

class UnsupportedError(Error):
    """An error of kind `unsupported`: exit code 69."""

class ModelError(Error):
    """An error of kind `model`: exit code 69."""

class ResourcesError(Error):
    """An error of kind `resources`: exit code 75."""

class SinkError(Error):
    """An error of kind `sink`: exit code 73."""

class InterruptedError(Error):
    """An error of kind `interrupted`: exit code 130."""

class TerminatedError(Error):
    """An error of kind `terminated`: exit code 143."""

class InternalError(Error):
    """An error of kind `internal`: exit code 70."""

def run(
    pipeline: str | PathLike[str],
    *,
    set: Mapping[str, Any] | None = None,
    limit: int | None = None,
    fresh: bool = False,
    prune: bool = False,
    offline: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Runs a pipeline file, as `hfauto-pipe run` does, and returns the report of the run.

    Parameters
    ----------
    pipeline : path
        The pipeline file (YAML).
    set : dict, optional
        Overrides of keys of the file, such as `{"source.limit": 100}`.
    limit : int, optional
        Read at most this many rows of the source.
    fresh : bool
        Replace an existing output.
    prune : bool
        Remove rows of deleted input files from the output of an incremental pipeline.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool, optional
        Show progress. Default: in terminals and notebooks.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program."""

def sql(
    query: str,
    tables: Mapping[str, ArrowStreamExportable | ArrowArrayExportable | Sequence[str | None]] | None = None,
    /,
    *,
    models: Mapping[str, str | Mapping[str, Any]] | None = None,
    offline: bool = False,
    progress: bool | None = None,
    **more_tables: ArrowStreamExportable | ArrowArrayExportable | Sequence[str | None],
) -> Table:
    """Runs a SQL query with models over tables, and returns its rows.

    Every task is a function in SQL: `embed(text, 'model')`. Files are tables by their quoted path:
    `FROM 'reviews/*.parquet'`.

    Parameters
    ----------
    query : str
        A query; statements that write are refused.
    tables, **more_tables : tables or columns
        The tables of the query by name. A column is a table of one column.
    models : dict, optional
        Aliases of models: a hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool, optional
        Show progress. Default: in terminals and notebooks.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program."""

def unload() -> None:
    """Forgets the models of earlier calls, which frees their weights."""

@overload
def embed(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'embedding',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    pooling: Literal['cls', 'max', 'mean', 'mean_sqrt_len_tokens', 'weightedmean', 'lasttoken', 'none'] | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    task: str | None = None,
    dimensions: int | None = None,
    precision: Literal['f32', 'f16', 'int8', 'uint8', 'binary', 'ubinary'] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Computes embeddings or hidden states of a text.

    The embedding of a text, as SentenceTransformer.encode computes it: FixedSizeList<Float32>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `text`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: the small English model of the package.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    pooling : Literal['cls', 'max', 'mean', 'mean_sqrt_len_tokens', 'weightedmean', 'lasttoken', 'none'] | None
        How to pool the token vectors into one; `none` keeps all of them. Default: as in the model's
        `modules.json`, else `mean`.
    normalize : bool | None
        Whether to scale embeddings to unit length. Default: as in the model's `modules.json`, else
        false.
    prompt : str | None
        Text prepended to every row. With columns of the row, `{{ title }}: {{ text }}`, it is a Jinja
        template of the whole text.
    prompt_name : str | None
        The name of a prompt in the model's `config_sentence_transformers.json`.
    task : str | None
        The task whose adapter the model uses (Jina Embeddings v3: `retrieval.query`,
        `retrieval.passage`, `separation`, `classification`, `text-matching`). Default: as in the
        model's `sentence_bert_config.json`, else no adapter.
    dimensions : int | None
        Keep only the first N dimensions (Matryoshka embeddings).
    precision : Literal['f32', 'f16', 'int8', 'uint8', 'binary', 'ubinary'] | None
        The storage type of embeddings. Default: `f32`.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def embed(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'embedding',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    pooling: Literal['cls', 'max', 'mean', 'mean_sqrt_len_tokens', 'weightedmean', 'lasttoken', 'none'] | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    task: str | None = None,
    dimensions: int | None = None,
    precision: Literal['f32', 'f16', 'int8', 'uint8', 'binary', 'ubinary'] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def classify(
    data: Sequence[str | None],
    /,
    column: str | Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'sentiment',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    top_k: Literal['all'] | int | None = None,
    function_to_apply: Literal['sigmoid', 'softmax', 'none'] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Classifies a text.

    The top label of a text, or of a pair {text: …, text_pair: …}: Struct<label, score>; with top_k a list.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | Mapping[str, str | Sequence[str]] | None
        The column to read. Default: `text`, or the only text column. Or several columns: `{"text": …,
        "text_pair": …}`.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `distilbert/distilbert-base-uncased-finetuned-
        sst-2-english`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    top_k : Literal['all'] | int | None
        The number of labels, highest score first, or `all`. Default: 1.
    function_to_apply : Literal['sigmoid', 'softmax', 'none'] | None
        The function that turns logits into scores. Default: as in the model's configuration.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def classify(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'sentiment',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    top_k: Literal['all'] | int | None = None,
    function_to_apply: Literal['sigmoid', 'softmax', 'none'] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def zero_shot(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'topics',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    candidate_labels: str | Sequence[str],
    hypothesis_template: str | None = None,
    multi_label: bool | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Classifies a text by the pipeline's candidate labels.

    The scores of the labels in the option candidate_labels, highest first: List<Struct<label, score>>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `text`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `cross-encoder/nli-distilroberta-base`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    candidate_labels : str | Sequence[str]
        The candidate labels.
    hypothesis_template : str | None
        The hypothesis for a label, which replaces `{}`. Default: `This example is {}.`
    multi_label : bool | None
        Whether several labels can apply to a text. Default: false.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def zero_shot(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'topics',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    candidate_labels: str | Sequence[str],
    hypothesis_template: str | None = None,
    multi_label: bool | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

def rerank(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'score',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    activation: Literal['sigmoid', 'identity'] | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    instruction: str | None = None,
    chat_template: str | None = None,
    true_token: str | None = None,
    false_token: str | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Table:
    """Scores a document against a query.

    The relevance of a document to a query, as CrossEncoder.predict computes it: Float32.

    Parameters
    ----------
    data : table or column
        A table.
    column : Mapping[str, str | Sequence[str]] | None
        The columns to read: `{"query": …, "document": …}`. Default: those of these names.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `cross-encoder/ms-marco-MiniLM-L6-v2`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    activation : Literal['sigmoid', 'identity'] | None
        The function that turns the logit into a score. Default: as in the model's configuration.
    prompt : str | None
        Text prepended to every query; the system message of a model with a chat template. With columns
        of the row, `{{ query }} ({{ lang }})`, it is a Jinja template of the whole query, or of the
        system message. Default: the model's default prompt.
    prompt_name : str | None
        The name of a prompt in the model's `config_sentence_transformers.json`.
    instruction : str | None
        The instruction of a model with a chat template: its system message. Default: the model's
        default prompt.
    chat_template : str | None
        A Jinja template over messages with the roles `query` and `document`, and `system` for the
        instruction; or the name of one of the model's templates. Default: the model's chat template, if
        it has one.
    true_token : str | None
        For a causal language model: the token whose logit is the score, a token of the vocabulary or a
        text of one token. Default: the model's LogitScore, else `yes`.
    false_token : str | None
        The token whose logit is subtracted from that of `true_token`. Default: the model's LogitScore,
        else `no`; nothing is subtracted if only `true_token` is set.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def token_classify(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'entities',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    aggregation_strategy: Literal['none', 'simple', 'first', 'average', 'max'] | None = None,
    ignore_labels: Sequence[str] | None = None,
    stride: int | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Labels the tokens or spans of a text.

    The labelled tokens or spans of a text: List<Struct<label, score, word, start, end>>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `text`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `dslim/bert-base-NER`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    aggregation_strategy : Literal['none', 'simple', 'first', 'average', 'max'] | None
        How to merge tokens into spans. Default: `none`.
    ignore_labels : Sequence[str] | None
        Labels to omit from the result. Default: `[O]`.
    stride : int | None
        The overlap of the windows of a long text, in tokens.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def token_classify(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'entities',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    aggregation_strategy: Literal['none', 'simple', 'first', 'average', 'max'] | None = None,
    ignore_labels: Sequence[str] | None = None,
    stride: int | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

def answer(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'answer',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    top_k: int | None = None,
    doc_stride: int | None = None,
    max_seq_len: int | None = None,
    max_question_len: int | None = None,
    max_answer_len: int | None = None,
    handle_impossible_answer: bool | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Table:
    """Extracts the answer to a question from a context.

    The span of the context that answers the question: Struct<answer, score, start, end>.

    Parameters
    ----------
    data : table or column
        A table.
    column : Mapping[str, str | Sequence[str]] | None
        The columns to read: `{"question": …, "context": …}`. Default: those of these names.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `deepset/roberta-base-squad2`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    top_k : int | None
        The number of answers, highest score first. Default: 1.
    doc_stride : int | None
        The overlap of the windows of a long context, in tokens. Default: 128.
    max_seq_len : int | None
        The maximum length of a window in tokens. Default: 384.
    max_question_len : int | None
        The maximum length of the question in tokens. Has no effect, as in transformers with fast
        tokenizers.
    max_answer_len : int | None
        The maximum length of an answer in tokens. Default: 15.
    handle_impossible_answer : bool | None
        Whether an empty answer is allowed. Default: false.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def fill_mask(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'filled',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    top_k: int | None = None,
    targets: str | Sequence[str] | None = None,
    multiple_masks: bool | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Predicts the most likely tokens for a mask.

    The most likely tokens for the mask of a text: List<Struct<token_str, token, score, sequence>>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `text`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `distilbert/distilbert-base-uncased`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    top_k : int | None
        The number of tokens, most likely first. Default: 5.
    targets : str | Sequence[str] | None
        Candidate words; all other tokens are ignored. Default: the whole vocabulary.
    multiple_masks : bool | None
        Whether a text may contain several masks. Default: false.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def fill_mask(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'filled',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    top_k: int | None = None,
    targets: str | Sequence[str] | None = None,
    multiple_masks: bool | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def sparse_encode(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'weights',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    pooling: Literal['max', 'sum'] | None = None,
    top_k: int | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Computes a sparse vector over the vocabulary (SPLADE).

    The sparse vector of a text over the vocabulary (SPLADE): List<Struct<token, index, weight>>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `text`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `naver/splade-v3`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    pooling : Literal['max', 'sum'] | None
        How to pool the token vectors. Default: as in the model's modules, else `max`.
    top_k : int | None
        Keep only the k largest weights. Default: the model's `max_active_dims`.
    prompt : str | None
        Text prepended to every row. Default: the model's default prompt.
    prompt_name : str | None
        The name of a prompt in the model's `config_sentence_transformers.json`.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def sparse_encode(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'weights',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    pooling: Literal['max', 'sum'] | None = None,
    top_k: int | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def generate(
    data: Sequence[str | None],
    /,
    column: str | Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'continuation',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    early_stopping: Literal['never'] | bool | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    prompt: str | None = None,
    system: str | None = None,
    return_full_text: bool | None = None,
    chat_template: str | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
    include_reasoning: bool | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Continues a prompt.

    The continuation of a prompt, or the reply to a list of messages {role, content}: Struct<text, finish_reason, prompt_tokens, generated_tokens>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `prompt`, also as a list, for which the result is a column.
    column : str | Mapping[str, str | Sequence[str]] | None
        The column to read. Default: `prompt`, or the only text column. Or several columns:
        `{"messages": …}`.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `openai-community/gpt2`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    max_new_tokens : int | None
        The maximum number of new tokens. Default: as in the model's `generation_config.json`, else 256.
    min_new_tokens : int | None
        The minimum number of new tokens.
    do_sample : bool | None
        Whether to sample tokens instead of decoding greedily or with beam search. Default: as in the
        model's `generation_config.json`, else false.
    temperature : float | None
        The sampling temperature; lower is more deterministic.
    top_k : int | None
        Sample from the k most likely tokens (top-k sampling); 0 turns it off.
    top_p : float | None
        Sample from the smallest set of tokens whose probabilities add up to this (nucleus sampling).
    min_p : float | None
        Sample from the tokens with at least this fraction of the top token's probability (min-p
        sampling).
    repetition_penalty : float | None
        Penalty on tokens that already occurred; values above 1 make them less likely.
    no_repeat_ngram_size : int | None
        Never repeat an n-gram of this size; 0 turns it off.
    num_beams : int | None
        The number of beams of beam search; 1 turns it off.
    length_penalty : float | None
        The length penalty of beam search: above 0 favours longer sequences, below 0 shorter ones.
        Default: 1.
    early_stopping : Literal['never'] | bool | None
        When beam search stops: `true` once `num_beams` beams are finished, `false` when a better beam
        is unlikely, `never` when a better beam is impossible.
    eos_token_id : int | Sequence[int] | None
        The end-of-sequence tokens: an id or a list of ids. Default: as in the model's
        `generation_config.json`.
    stop : str | Sequence[str] | None
        Stop strings: texts that end the generation.
    seed : int | None
        The seed for sampling. The random numbers of a row depend on it and on the row's prompt.
    prompt : str | None
        Text prepended to every row. With columns of the row, `Translate: {{ text }}`, it is a Jinja
        template of the whole text. A model with a chat template reads the text as the user's message.
    system : str | None
        The system message before a text, for a model with a chat template. It may have columns of the
        row.
    return_full_text : bool | None
        Whether to include the prompt in the result. Default: false.
    chat_template : str | None
        A chat template that replaces the model's.
    chat_template_kwargs : dict[str, Any] | None
        Further variables of the chat template, for example `{enable_thinking: false}`.
    include_reasoning : bool | None
        Whether the text includes the model's reasoning, from `<think>` to `</think>`. With `false`, the
        text is the answer, which is empty if the text ends inside the reasoning. Default: true.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def generate(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'continuation',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    early_stopping: Literal['never'] | bool | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    prompt: str | None = None,
    system: str | None = None,
    return_full_text: bool | None = None,
    chat_template: str | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
    include_reasoning: bool | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def loglikelihood(
    data: Sequence[str | None],
    /,
    column: str | Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'likelihood',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    stride: int | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Computes the log-likelihood of a text.

    The log-likelihood of a text, or of a continuation as {context: …, continuation: …}: Struct<loglikelihood, tokens, perplexity>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | Mapping[str, str | Sequence[str]] | None
        The column to read. Default: `text`, or the only text column. Or several columns: `{"context":
        …, "continuation": …}`.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `openai-community/gpt2`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    stride : int | None
        The number of tokens by which the windows over a long text advance.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def loglikelihood(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'likelihood',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    stride: int | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def text2text(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'result',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    early_stopping: Literal['never'] | bool | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    prefix: str | None = None,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    on_long: Literal['truncate', 'error', 'split'] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Generates text from text with an encoder-decoder model.

    The text that an encoder-decoder model generates from a text: Struct<text, finish_reason, prompt_tokens, generated_tokens>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `text`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `google/flan-t5-small`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    max_new_tokens : int | None
        The maximum number of new tokens. Default: as in the model's `generation_config.json`, else 256.
    min_new_tokens : int | None
        The minimum number of new tokens.
    do_sample : bool | None
        Whether to sample tokens instead of decoding greedily or with beam search. Default: as in the
        model's `generation_config.json`, else false.
    temperature : float | None
        The sampling temperature; lower is more deterministic.
    top_k : int | None
        Sample from the k most likely tokens (top-k sampling); 0 turns it off.
    top_p : float | None
        Sample from the smallest set of tokens whose probabilities add up to this (nucleus sampling).
    min_p : float | None
        Sample from the tokens with at least this fraction of the top token's probability (min-p
        sampling).
    repetition_penalty : float | None
        Penalty on tokens that already occurred; values above 1 make them less likely.
    no_repeat_ngram_size : int | None
        Never repeat an n-gram of this size; 0 turns it off.
    num_beams : int | None
        The number of beams of beam search; 1 turns it off.
    length_penalty : float | None
        The length penalty of beam search: above 0 favours longer sequences, below 0 shorter ones.
        Default: 1.
    early_stopping : Literal['never'] | bool | None
        When beam search stops: `true` once `num_beams` beams are finished, `false` when a better beam
        is unlikely, `never` when a better beam is impossible.
    eos_token_id : int | Sequence[int] | None
        The end-of-sequence tokens: an id or a list of ids. Default: as in the model's
        `generation_config.json`.
    stop : str | Sequence[str] | None
        Stop strings: texts that end the generation.
    seed : int | None
        The seed for sampling. The random numbers of a row depend on it and on the row's prompt.
    prefix : str | None
        Text prepended to every row, such as `summarize: `.
    src_lang : str | None
        The language of the input, as the model names it: `en`, `en_XX`, `eng_Latn`.
    tgt_lang : str | None
        The language of the output, as the model names it.
    on_long : Literal['truncate', 'error', 'split'] | None
        What happens to texts longer than the model's maximum: `truncate` reads their beginning, `error`
        fails, `split` cuts them at the ends of sentences, computes the parts one by one and joins the
        results. Default: `truncate` with `truncation: true`, else `error`.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def text2text(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'result',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    early_stopping: Literal['never'] | bool | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    prefix: str | None = None,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    on_long: Literal['truncate', 'error', 'split'] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def summarize(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'summary',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    early_stopping: Literal['never'] | bool | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    prefix: str | None = None,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    on_long: Literal['truncate', 'error', 'split'] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Summarizes a text.

    The summary of a text; the type is that of text2text.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `text`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `google-t5/t5-small`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    max_new_tokens : int | None
        The maximum number of new tokens. Default: as in the model's `generation_config.json`, else 256.
    min_new_tokens : int | None
        The minimum number of new tokens.
    do_sample : bool | None
        Whether to sample tokens instead of decoding greedily or with beam search. Default: as in the
        model's `generation_config.json`, else false.
    temperature : float | None
        The sampling temperature; lower is more deterministic.
    top_k : int | None
        Sample from the k most likely tokens (top-k sampling); 0 turns it off.
    top_p : float | None
        Sample from the smallest set of tokens whose probabilities add up to this (nucleus sampling).
    min_p : float | None
        Sample from the tokens with at least this fraction of the top token's probability (min-p
        sampling).
    repetition_penalty : float | None
        Penalty on tokens that already occurred; values above 1 make them less likely.
    no_repeat_ngram_size : int | None
        Never repeat an n-gram of this size; 0 turns it off.
    num_beams : int | None
        The number of beams of beam search; 1 turns it off.
    length_penalty : float | None
        The length penalty of beam search: above 0 favours longer sequences, below 0 shorter ones.
        Default: 1.
    early_stopping : Literal['never'] | bool | None
        When beam search stops: `true` once `num_beams` beams are finished, `false` when a better beam
        is unlikely, `never` when a better beam is impossible.
    eos_token_id : int | Sequence[int] | None
        The end-of-sequence tokens: an id or a list of ids. Default: as in the model's
        `generation_config.json`.
    stop : str | Sequence[str] | None
        Stop strings: texts that end the generation.
    seed : int | None
        The seed for sampling. The random numbers of a row depend on it and on the row's prompt.
    prefix : str | None
        Text prepended to every row, such as `summarize: `.
    src_lang : str | None
        The language of the input, as the model names it: `en`, `en_XX`, `eng_Latn`.
    tgt_lang : str | None
        The language of the output, as the model names it.
    on_long : Literal['truncate', 'error', 'split'] | None
        What happens to texts longer than the model's maximum: `truncate` reads their beginning, `error`
        fails, `split` cuts them at the ends of sentences, computes the parts one by one and joins the
        results. Default: `truncate` with `truncation: true`, else `error`.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def summarize(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'summary',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    early_stopping: Literal['never'] | bool | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    prefix: str | None = None,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    on_long: Literal['truncate', 'error', 'split'] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def translate(
    data: Sequence[str | None],
    /,
    column: str | Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'german',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    early_stopping: Literal['never'] | bool | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    prefix: str | None = None,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    on_long: Literal['truncate', 'error', 'split'] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Translates a text.

    The translation of a text, or of {text: …, tgt_lang: …}; the type is that of text2text. The options src_lang and tgt_lang name the languages.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | Mapping[str, str | Sequence[str]] | None
        The column to read. Default: `text`, or the only text column. Or several columns: `{"text": …,
        "tgt_lang": …}`.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `google-t5/t5-small`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    max_new_tokens : int | None
        The maximum number of new tokens. Default: as in the model's `generation_config.json`, else 256.
    min_new_tokens : int | None
        The minimum number of new tokens.
    do_sample : bool | None
        Whether to sample tokens instead of decoding greedily or with beam search. Default: as in the
        model's `generation_config.json`, else false.
    temperature : float | None
        The sampling temperature; lower is more deterministic.
    top_k : int | None
        Sample from the k most likely tokens (top-k sampling); 0 turns it off.
    top_p : float | None
        Sample from the smallest set of tokens whose probabilities add up to this (nucleus sampling).
    min_p : float | None
        Sample from the tokens with at least this fraction of the top token's probability (min-p
        sampling).
    repetition_penalty : float | None
        Penalty on tokens that already occurred; values above 1 make them less likely.
    no_repeat_ngram_size : int | None
        Never repeat an n-gram of this size; 0 turns it off.
    num_beams : int | None
        The number of beams of beam search; 1 turns it off.
    length_penalty : float | None
        The length penalty of beam search: above 0 favours longer sequences, below 0 shorter ones.
        Default: 1.
    early_stopping : Literal['never'] | bool | None
        When beam search stops: `true` once `num_beams` beams are finished, `false` when a better beam
        is unlikely, `never` when a better beam is impossible.
    eos_token_id : int | Sequence[int] | None
        The end-of-sequence tokens: an id or a list of ids. Default: as in the model's
        `generation_config.json`.
    stop : str | Sequence[str] | None
        Stop strings: texts that end the generation.
    seed : int | None
        The seed for sampling. The random numbers of a row depend on it and on the row's prompt.
    prefix : str | None
        Text prepended to every row, such as `summarize: `.
    src_lang : str | None
        The language of the input, as the model names it: `en`, `en_XX`, `eng_Latn`.
    tgt_lang : str | None
        The language of the output, as the model names it.
    on_long : Literal['truncate', 'error', 'split'] | None
        What happens to texts longer than the model's maximum: `truncate` reads their beginning, `error`
        fails, `split` cuts them at the ends of sentences, computes the parts one by one and joins the
        results. Default: `truncate` with `truncation: true`, else `error`.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def translate(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'german',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    early_stopping: Literal['never'] | bool | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    prefix: str | None = None,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    on_long: Literal['truncate', 'error', 'split'] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

def choose(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'best',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Table:
    """Picks one of several choices.

    The most likely of a list of choices: Struct<choice, scores>.

    Parameters
    ----------
    data : table or column
        A table.
    column : Mapping[str, str | Sequence[str]] | None
        The columns to read: `{"prompt": …, "choices": …}`. Default: those of these names.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `LIAMF-USP/roberta-large-finetuned-race`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

def is_next(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'follows',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Table:
    """Predicts whether one text follows another.

    Whether the second text follows the first: Struct<is_next, score>.

    Parameters
    ----------
    data : table or column
        A table.
    column : Mapping[str, str | Sequence[str]] | None
        The columns to read: `{"text": …, "text_pair": …}`. Default: those of these names.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `google-bert/bert-base-uncased`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def classify_image(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'labels',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    top_k: Literal['all'] | int | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Classifies images.

    The top labels of an image, given as a path or as bytes: List<Struct<label, score>>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `image`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `image`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `google/vit-base-patch16-224`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    top_k : Literal['all'] | int | None
        The number of labels, highest score first, or `all`. Default: 5.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def classify_image(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'labels',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    top_k: Literal['all'] | int | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def zero_shot_image(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'labels',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    candidate_labels: str | Sequence[str],
    hypothesis_template: str | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Classifies images by the pipeline's candidate labels.

    The scores of the labels in the option candidate_labels for an image, highest first: List<Struct<label, score>>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `image`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `image`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `openai/clip-vit-base-patch32`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    candidate_labels : str | Sequence[str]
        The candidate labels.
    hypothesis_template : str | None
        The text for a label, which replaces `{}`. Default: `This is a photo of {}.`
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def zero_shot_image(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'labels',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    candidate_labels: str | Sequence[str],
    hypothesis_template: str | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def embed_image(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'embedding',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    pooling: Literal['cls', 'mean', 'pooler'] | None = None,
    normalize: bool | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Computes embeddings of images.

    The embedding of an image, given as a path or as bytes: FixedSizeList<Float32>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `image`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `image`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `openai/clip-vit-base-patch32`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    pooling : Literal['cls', 'mean', 'pooler'] | None
        How to pool the tokens of an image into one vector. Default: `pooler` for a model of texts and
        images, else `mean`.
    normalize : bool | None
        Whether to scale vectors to unit length. Default: as in the model's `modules.json`, else false.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def embed_image(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'embedding',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    pooling: Literal['cls', 'mean', 'pooler'] | None = None,
    normalize: bool | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def token_count(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'tokens',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Counts the tokens of a text.

    The number of tokens of a text, special tokens included: Int32.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `text`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `google-bert/bert-base-uncased`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def token_count(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'tokens',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

@overload
def chunk(
    data: Sequence[str | None],
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'chunk',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    max_tokens: int | None = None,
    overlap: int | None = None,
    by: Literal['tokens', 'sentences', 'markdown'] | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Array:
    """Divides a text into chunks that a model reads whole, one row for each.

    The chunks of a text, for unnest: List<Struct<chunk, index, start, end>>.

    Parameters
    ----------
    data : table or column
        A table; or a column of `text`, also as a list, for which the result is a column.
    column : str | None
        The column to read. Default: `text`, or the only text column.
    model : str | Mapping[str, Any] | None
        A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file,
        such as `revision` and `dtype`. Default: `sentence-transformers/all-MiniLM-L6-v2`.
    output : str
        The name of the new column of a table.
    max_length : int | None
        The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    truncation : bool | None
        Whether to truncate longer rows. Default: true for tasks that read, false for tasks that
        generate. With `false`, a longer row is an error.
    auto_class : str | None
        The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    allow_new_head : bool | None
        Whether to accept a checkpoint that lacks the task's head and to initialize the head with random
        weights. Default: false.
    outputs : Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None
        The model outputs to store.
    max_tokens : int | None
        The most tokens of a chunk as the model reads it: with special tokens and the prompt. Default:
        the model's maximum.
    overlap : int | None
        The tokens of a chunk that the next one repeats, at most half of a chunk. Default: 0.
    by : Literal['tokens', 'sentences', 'markdown'] | None
        Where a text is divided. Default: `sentences`.
    prompt : str | None
        The text that the step that reads the chunks puts before each of them: its tokens count. It is
        not added to the chunks. Default: the model's default prompt.
    prompt_name : str | None
        The name of a prompt in the model's `config_sentence_transformers.json`: its tokens count.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool | None
        Show progress. Default: in terminals and notebooks.

    Returns
    -------
    Table or Array
        The table with one more column; for a column, the new column alone.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """

@overload
def chunk(
    data: ArrowStreamExportable | ArrowArrayExportable,
    /,
    column: str | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    output: str = 'chunk',
    max_length: int | None = None,
    truncation: bool | None = None,
    auto_class: str | None = None,
    allow_new_head: bool | None = None,
    outputs: Sequence[Literal['last_hidden_state', 'pooler_output', 'hidden_states', 'attentions', 'logits']] | None = None,
    max_tokens: int | None = None,
    overlap: int | None = None,
    by: Literal['tokens', 'sentences', 'markdown'] | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> Any:
    ...

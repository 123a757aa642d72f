//! Models in SQL: which rows reach the model. However a query moves a call, the model computes exactly the rows that
//! the query needs, each distinct text once.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::Session;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{ColumnarValue, LogicalPlan, Volatility, create_udf};
use datafusion::physical_plan::{ExecutionPlan, collect, execute_stream};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use hfauto_pipe::config::pipeline::ModelSpec;
use hfauto_pipe::exec::{BatchSettings, ModelExec, StepCounts};
use hfauto_pipe::hub::{Hub, HubSettings};
use hfauto_pipe::sql::{ModelCatalog, register};

use super::support::{mini_embedder, repository, sample_rows};

pub(crate) fn catalog() -> Arc<ModelCatalog> {
    let hub = Hub::new(HubSettings::from_env().with_offline(true));
    let catalog = ModelCatalog::new(Arc::new(hub));
    let tasks = repository().join("tests/golden/tasks");
    catalog.insert("minilm", ModelSpec::of_repo(mini_embedder().to_str().unwrap()));
    for (alias, model) in [
        ("sentiment", "bert-sentiment"),
        ("gpt2", "gpt2"),
        ("t5", "t5"),
        ("mlm", "bert-mlm"),
        ("rerank", "bert-rerank"),
        ("vit", "vit"),
    ] {
        catalog.insert(alias, ModelSpec::of_repo(tasks.join(model).to_str().unwrap()));
    }
    Arc::new(catalog)
}

const WORDS: [&str; 12] =
    ["a", "bread", "cold", "day", "every", "from", "good", "house", "in", "just", "kind", "long"];

/// Twelve rows with twelve texts, in two languages, and some rows without a text.
fn rows() -> RecordBatch {
    let lang = |id: i64| if id % 3 == 0 { "de" } else { "en" };
    let text = |id: i64| (id != 11).then(|| format!("{} tells of the sea", WORDS[id as usize]));
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("lang", DataType::Utf8, false),
        Field::new("stars", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
    ]);
    let ids = 0..12;
    RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(ids.clone().collect::<Int64Array>()),
            Arc::new(ids.clone().map(|id| Some(lang(id))).collect::<StringArray>()),
            Arc::new(ids.clone().map(|id| id % 5).collect::<Int64Array>()),
            Arc::new(ids.map(text).collect::<StringArray>()),
        ],
    )
    .unwrap()
}

/// A session with the tables `t` and `twice`, and the models.
pub(crate) fn context_over(config: SessionConfig, models: &Arc<ModelCatalog>) -> SessionContext {
    let context = SessionContext::new_with_config(config);
    let batch = rows();
    // Several partitions, as a caller's tables have.
    let partitions =
        vec![vec![batch.slice(0, 5)], vec![batch.slice(5, 4)], vec![batch.slice(9, 3)]];
    let table = MemTable::try_new(batch.schema(), partitions).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    let doubled = vec![vec![batch.clone()], vec![batch.clone()]];
    let twice = MemTable::try_new(batch.schema(), doubled).unwrap();
    context.register_table("twice", Arc::new(twice)).unwrap();
    register(&context, Arc::clone(models)).unwrap();
    context
}

fn context_with(config: SessionConfig) -> SessionContext {
    context_over(config, &catalog())
}

fn context() -> SessionContext {
    context_with(SessionConfig::new().with_target_partitions(4))
}

/// The models of a plan, from the top: task and counters.
fn models(plan: &Arc<dyn ExecutionPlan>, found: &mut Vec<(usize, StepCounts)>) {
    if let Some(model) = plan.downcast_ref::<ModelExec>() {
        let task = Arc::as_ptr(model.step().task()).cast::<()>() as usize;
        found.push((task, model.step().metrics().counts()));
    }
    plan.children().into_iter().for_each(|child| models(child, found));
}

struct Answer {
    batches: Vec<RecordBatch>,
    models: Vec<(usize, StepCounts)>,
}

impl Answer {
    fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Rows that each task computed, from the top of the plan; its nodes share results.
    fn computed(&self) -> Vec<u64> {
        let mut tasks: Vec<(usize, u64)> = Vec::new();
        for (task, counts) in &self.models {
            match tasks.iter_mut().find(|(other, _)| other == task) {
                Some((_, rows)) => *rows += counts.computed_rows,
                None => tasks.push((*task, counts.computed_rows)),
            }
        }
        tasks.into_iter().map(|(_, rows)| rows).collect()
    }

    fn text(&self) -> String {
        pretty_format_batches(&self.batches).unwrap().to_string()
    }
}

async fn try_ask(context: &SessionContext, query: &str) -> Result<Answer, DataFusionError> {
    let plan = context.sql(query).await?.create_physical_plan().await?;
    let batches = collect(Arc::clone(&plan), context.task_ctx()).await?;
    let mut found = Vec::new();
    models(&plan, &mut found);
    Ok(Answer { batches, models: found })
}

async fn error(context: &SessionContext, query: &str) -> String {
    match try_ask(context, query).await {
        Ok(answer) => panic!("{query} gives\n{}", answer.text()),
        Err(error) => hfauto_pipe::source::stream_error(error, &[]).to_string(),
    }
}

/// Each query, with its number of rows and the number of rows that each of its models computes.
const COMPUTED: &[(&str, usize, &[u64])] = &[
    // Each distinct text once, and no null.
    ("SELECT embed(text, 'minilm') FROM t", 12, &[11]),
    ("SELECT embed(text, 'minilm') FROM twice", 24, &[11]),
    ("SELECT embed(text, 'minilm') a, embed(text, 'minilm') b FROM t", 12, &[11]),
    (
        "SELECT embed(text, 'minilm') a, id FROM t WHERE embed(text, 'minilm') IS NOT NULL",
        11,
        &[11],
    ),
    (
        "SELECT embed(text, 'minilm', options => '{\"normalize\": false}'), embed(text, 'minilm') FROM t",
        12,
        &[11, 11],
    ),
    // Cheap predicates and limits run first.
    ("SELECT embed(text, 'minilm') FROM t WHERE lang = 'de'", 4, &[4]),
    ("SELECT id FROM t WHERE SCORE > 0 AND lang = 'de'", 4, &[4]),
    ("SELECT id FROM t WHERE lang = 'de' AND (stars = 1 OR SCORE > 0)", 4, &[3]),
    ("SELECT id FROM (SELECT *, embed(text, 'minilm') AS e FROM t) WHERE lang = 'de'", 4, &[]),
    ("SELECT e FROM (SELECT *, embed(text, 'minilm') AS e FROM t) WHERE lang = 'de'", 4, &[4]),
    ("SELECT embed(text, 'minilm') FROM t WHERE id < 11 LIMIT 3", 3, &[3]),
    ("SELECT embed(text, 'minilm') FROM t ORDER BY id LIMIT 3", 3, &[3]),
    (
        "SELECT id, embed(text, 'minilm') FROM t WHERE lang = 'en' ORDER BY stars DESC, id LIMIT 2",
        2,
        &[2],
    ),
    (
        "SELECT * FROM (SELECT id, stars, embed(text, 'minilm') AS e FROM t) AS s ORDER BY s.stars, s.id LIMIT 4 OFFSET 1",
        4,
        &[4],
    ),
    ("SELECT embed(text, 'minilm') FROM t WHERE false", 0, &[0]),
    ("SELECT embed(text, 'minilm') FROM t LIMIT 0", 0, &[]),
    // One after the other: the second model sees the first one's remaining rows.
    ("SELECT id FROM t WHERE SCORE < 0 AND embed(text, 'minilm') IS NOT NULL", 0, &[0, 11]),
    // A sort needs one model; the other runs on its remaining rows.
    (
        "SELECT generate(text, 'gpt2', options => '{\"max_new_tokens\": 2}') FROM t WHERE text IS NOT NULL ORDER BY SCORE, id LIMIT 2",
        2,
        &[2, 11],
    ),
    // An unused column.
    ("SELECT count(*) FROM (SELECT embed(text, 'minilm') FROM t)", 1, &[]),
    ("SELECT id FROM (SELECT id, embed(text, 'minilm') AS e FROM t)", 12, &[]),
    (
        "SELECT a.id FROM (SELECT id, embed(text, 'minilm') AS e FROM t) a JOIN t b ON a.id = b.id",
        12,
        &[],
    ),
    (
        "SELECT count(*) FROM t WHERE EXISTS (SELECT embed(text, 'minilm') FROM t u WHERE u.id = t.id)",
        1,
        &[],
    ),
    // Lazy places.
    (
        "SELECT CASE WHEN lang = 'de' THEN classify(text, 'sentiment')['label'] ELSE 'none' END FROM t",
        12,
        &[4],
    ),
    (
        "SELECT CASE WHEN lang = 'de' THEN 'none' WHEN stars = 4 THEN classify(text, 'sentiment')['label'] END FROM t",
        12,
        &[1],
    ),
    (
        "SELECT CASE lang WHEN 'de' THEN 'none' ELSE classify(text, 'sentiment')['label'] END FROM t",
        12,
        &[7],
    ),
    (
        "SELECT CASE WHEN stars = 1 THEN embed(text, 'minilm') WHEN lang = 'de' THEN embed(text, 'minilm') END FROM t",
        12,
        &[5],
    ),
    (
        "SELECT CASE WHEN lang = 'de' THEN embed(text, 'minilm') END, embed(text, 'minilm') FROM t",
        12,
        &[11],
    ),
    ("SELECT COALESCE(NULLIF(lang, 'de'), classify(text, 'sentiment')['label']) FROM t", 12, &[4]),
    ("SELECT lang = 'en' OR SCORE > 0 FROM t", 12, &[4]),
    ("SELECT SCORE > 0 AND lang = 'de' FROM t", 12, &[4]),
    (
        "SELECT CASE WHEN SCORE > 0 THEN embed(text, 'minilm') END FROM t WHERE lang = 'de'",
        4,
        &[4, 4],
    ),
    ("SELECT sum(SCORE) FILTER (WHERE lang = 'de') FROM t", 1, &[4]),
    // Aggregates, windows, distinct, unions.
    (
        "SELECT classify(text, 'sentiment')['label'] AS label, count(*) FROM t WHERE text IS NOT NULL GROUP BY classify(text, 'sentiment')['label']",
        2,
        &[11],
    ),
    ("SELECT lang, max(SCORE) FROM t GROUP BY lang HAVING max(SCORE) > 0", 2, &[11]),
    ("SELECT id, row_number() OVER (PARTITION BY lang ORDER BY SCORE) FROM t", 12, &[11]),
    ("SELECT DISTINCT SCORE IS NULL FROM t", 2, &[11]),
    ("SELECT DISTINCT ON (SCORE) SCORE, lang FROM t ORDER BY SCORE, id", 12, &[11]),
    (
        "SELECT embed(text, 'minilm') FROM t WHERE id < 2 UNION ALL SELECT embed(text, 'minilm') FROM t WHERE id > 9",
        4,
        &[3],
    ),
    // Joins.
    (
        "SELECT embed(a.text, 'minilm') FROM t a JOIN t b ON a.stars = b.stars WHERE a.id < 3",
        8,
        &[3],
    ),
    (
        "SELECT a.id FROM t a JOIN t b ON a.id = b.id AND classify(a.text, 'sentiment')['score'] > 0 AND b.lang = 'de'",
        4,
        &[4],
    ),
    (
        "SELECT a.id FROM t a LEFT JOIN t b ON a.id = b.id AND classify(b.text, 'sentiment')['score'] > 0",
        12,
        &[11],
    ),
    (
        "SELECT a.id FROM t a, t b WHERE cosine_similarity(embed(a.text, 'minilm'), embed(b.text, 'minilm')) > 0.99999 AND a.id = b.id",
        11,
        &[11],
    ),
    (
        "SELECT count(*) FROM t a CROSS JOIN t b WHERE cosine_similarity(embed(a.text, 'minilm'), embed(b.text, 'minilm')) > 2",
        1,
        &[11],
    ),
    (
        "SELECT a.id FROM t a JOIN t b ON cosine_similarity(embed(a.text, 'minilm'), embed(b.text, 'minilm')) > 2",
        0,
        &[11],
    ),
    // Subqueries, common table expressions, views.
    ("SELECT id FROM t WHERE id IN (SELECT id FROM t WHERE SCORE > 0 AND lang = 'de')", 4, &[4]),
    ("SELECT id, (SELECT max(SCORE) FROM t WHERE lang = 'de') FROM t", 12, &[4]),
    (
        "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM t b WHERE b.id = t.id AND classify(b.text, 'sentiment')['score'] > 0)",
        11,
        &[11],
    ),
    (
        "WITH e AS (SELECT id, lang, embed(text, 'minilm') AS e FROM t) SELECT e FROM e WHERE lang = 'de'",
        4,
        &[4],
    ),
    (
        "WITH e AS (SELECT id, embed(text, 'minilm') AS e FROM t) SELECT a.e FROM e a JOIN e b ON a.id = b.id AND a.e = b.e",
        11,
        &[11],
    ),
    (
        "SELECT embed(text, 'minilm') FROM t WHERE id IN (SELECT id FROM t WHERE embed(text, 'minilm') IS NOT NULL AND lang = 'de')",
        4,
        &[4],
    ),
    // Nested calls, several models, literals.
    (
        "SELECT embed(summarize(text, 't5', options => '{\"max_new_tokens\": 3}')['text'], 'minilm') FROM t WHERE id < 2",
        2,
        &[1, 2],
    ),
    ("SELECT embed('hello', 'minilm')", 1, &[1]),
    (
        "SELECT id, cosine_similarity(embed(text, 'minilm'), embed('the sea', 'minilm')) AS s FROM t ORDER BY s DESC, id LIMIT 3",
        3,
        &[12],
    ),
    ("SELECT embed('hello', 'minilm'), embed('hello', 'minilm') IS NULL FROM t", 12, &[1]),
    ("SELECT embed(NULL, 'minilm')", 1, &[0]),
    ("SELECT embed(column1, 'minilm') FROM (VALUES ('a'), ('b'), ('a'))", 3, &[2]),
    ("VALUES (token_count('a', 'minilm'), 1), (2, token_count('b c', 'minilm'))", 2, &[2]),
    (
        "SELECT classify({text: text, text_pair: lang}, 'sentiment')['label'] FROM t WHERE id < 3",
        3,
        &[3],
    ),
    ("SELECT rerank('a boat', text, model => 'rerank') FROM t WHERE id < 3", 3, &[3]),
    (
        "SELECT TRY_EMBED(text, model => 'minilm', options => '{\"pooling\": \"cls\"}')['value'] FROM t WHERE id < 3",
        3,
        &[3],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_model_sees_the_rows_that_are_needed() {
    let context = context();
    let mut wrong = Vec::new();
    for (query, rows, computed) in COMPUTED {
        let query = &query.replace("SCORE", "classify(text, 'sentiment')['score']");
        let answer = match try_ask(&context, query).await {
            Ok(answer) => answer,
            Err(error) => {
                wrong.push(format!("{query}\n  {error}"));
                continue;
            }
        };
        let (got, mut expected) = (answer.computed(), computed.to_vec());
        let mut sorted = got.clone();
        sorted.sort_unstable();
        expected.sort_unstable();
        if answer.rows() != *rows || sorted != expected {
            let plan = context.sql(query).await.unwrap().create_physical_plan().await.unwrap();
            let plan =
                datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string();
            wrong.push(format!("{query}\n  {} rows, computed {got:?}\n{plan}", answer.rows()));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), COMPUTED.len(), wrong.join("\n"));
}

/// Errors name the problem and the remedy.
#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_call() {
    let context = context();
    for (query, parts) in [
        (
            "SELECT embed(text, 'miniln') FROM t",
            &["invalid call of `embed`", "did you mean `minilm`"][..],
        ),
        ("SELECT embed(text, lang) FROM t", &["`embed`: the model must be a literal"]),
        ("SELECT embed(id, 'minilm') FROM t", &["`embed`: argument `text` is Int64", "cast it"]),
        ("SELECT embed(text, 'minilm', options => lang) FROM t", &["`options` must be a literal"]),
        (
            "SELECT embed(text, 'minilm', options => '{\"poolin\": 1}') FROM t",
            &["unknown key `poolin`", "pooling"],
        ),
        ("SELECT zero_shot(text, 'sentiment') FROM t", &["missing key `candidate_labels`"]),
        ("SELECT embed(text) FROM t", &["embed"]),
        (
            "SELECT classify({text: text, pair: lang}, 'sentiment') FROM t",
            &["`text`, `text_pair`", "`pair`"],
        ),
        ("SELECT classify_image(text, 'minilm') FROM t", &["reads text, not images"]),
        (
            "SELECT id FROM t ORDER BY id LIMIT token_count('a', 'minilm')",
            &["`token_count` cannot be called in LIMIT"],
        ),
        (
            "SELECT count(*) FROM t GROUP BY ROLLUP(token_count(text, 'minilm'))",
            &["`token_count` cannot be called in GROUPING SETS"],
        ),
        (
            "SELECT id FROM t WHERE id IN (SELECT token_count(t.text, 'minilm') FROM t u)",
            &["`token_count` reads `t.text` of the outer query"],
        ),
        (
            "SELECT a.id FROM t a LEFT JOIN t b ON rerank(a.text, b.text, 'rerank') > 0",
            &["`rerank` over columns of both sides"],
        ),
    ] {
        let error = error(&context, query).await;
        for part in parts {
            assert!(error.contains(part), "{query}\n{error}");
        }
    }
}

/// A query without calls is planned as without our rules.
#[tokio::test(flavor = "multi_thread")]
async fn queries_without_calls_are_planned_as_before() {
    let ours = context();
    let plain = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(4));
    for name in ["t", "twice"] {
        plain.register_table(name, ours.table_provider(name).await.unwrap()).unwrap();
    }
    for query in [
        "SELECT id, text FROM t WHERE lang = 'en' ORDER BY stars DESC LIMIT 2",
        "SELECT lang, count(*) FROM t GROUP BY lang HAVING count(*) > 1",
        "SELECT a.id FROM t a LEFT JOIN twice b ON a.id = b.id AND b.stars > 2 ORDER BY a.id",
        "SELECT id, (SELECT max(id) FROM twice) FROM t WHERE EXISTS (SELECT 1 FROM twice b WHERE b.id = t.id)",
        "SELECT id, row_number() OVER (PARTITION BY lang ORDER BY stars) FROM t UNION ALL SELECT 1, 2",
    ] {
        let mut plans = Vec::new();
        for context in [&ours, &plain] {
            let plan = context.sql(query).await.unwrap().create_physical_plan().await.unwrap();
            let shown = datafusion::physical_plan::displayable(plan.as_ref()).indent(true);
            plans.push(shown.to_string());
        }
        assert_eq!(plans[0], plans[1], "{query}");
    }
}

/// A plan that is not read to its end stops its models. A limit over a model's result starts with few rows.
#[tokio::test(flavor = "multi_thread")]
async fn models_stop_with_the_query() {
    // With more partitions, DataFusion repartitions before a filter and therefore reads ahead.
    let context = context_with(SessionConfig::new().with_target_partitions(1));
    let rows = 20_000;
    let texts = (0..rows).map(|row| Some(format!("{row} boats in the harbour")));
    let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, true)]));
    let texts = Arc::new(texts.collect::<StringArray>());
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![texts]).unwrap();
    let table = MemTable::try_new(schema, vec![vec![batch]]).unwrap();
    context.register_table("many", Arc::new(table)).unwrap();

    let query = "SELECT embed(text, 'minilm') FROM many";
    let plan = context.sql(query).await.unwrap().create_physical_plan().await.unwrap();
    let computed = || {
        let mut found = Vec::new();
        models(&plan, &mut found);
        found[0].1.computed_rows
    };
    let stream = execute_stream(Arc::clone(&plan), context.task_ctx()).unwrap();
    while computed() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(stream);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stopped = computed();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(computed(), stopped);
    assert!(stopped < rows / 2, "{stopped}");

    for query in [
        "SELECT text FROM many WHERE token_count(text, 'minilm') > 0 LIMIT 5",
        "SELECT text FROM many WHERE cosine_similarity(embed(text, 'minilm'), embed(text, 'minilm')) > 0 LIMIT 5 OFFSET 2",
    ] {
        let answer = try_ask(&context, query).await.unwrap();
        assert_eq!(answer.rows(), 5);
        let computed = answer.computed()[0];
        assert!((1..=600).contains(&computed), "{query}: {computed}");
    }
    // The ranges of int8 embeddings depend on a whole window.
    let query = "SELECT text FROM many WHERE embed(text, 'minilm', options => '{\"precision\": \"int8\"}') IS NOT NULL LIMIT 5";
    assert_eq!(try_ask(&context, query).await.unwrap().computed(), [rows]);
}

/// The embedder, run with these settings.
fn minilm_with(settings: BatchSettings) -> Arc<ModelCatalog> {
    let hub = Hub::new(HubSettings::from_env().with_offline(true));
    let models = ModelCatalog::new(Arc::new(hub)).with_settings(settings);
    models.insert("minilm", ModelSpec::of_repo(mini_embedder().to_str().unwrap()));
    Arc::new(models)
}

/// A query computes a text once, across windows and for a common table expression that is used twice.
#[tokio::test(flavor = "multi_thread")]
async fn windows_and_nodes_share_results() {
    let settings = BatchSettings { sort_window_rows: 4, ..BatchSettings::default() };
    let models = minilm_with(settings);
    let context = context_over(SessionConfig::new().with_target_partitions(4), &models);
    for (query, computed) in [
        ("SELECT id, embed(text, 'minilm') AS e FROM twice ORDER BY id", 11),
        (
            "WITH e AS (SELECT id, embed(text, 'minilm') AS e FROM t) \
             SELECT a.id, a.e FROM e a JOIN e b ON a.id = b.id AND a.e = b.e ORDER BY a.id",
            11,
        ),
        (
            "SELECT embed(text, 'minilm') AS e FROM t UNION ALL SELECT embed(text, 'minilm') FROM twice WHERE id < 5",
            11,
        ),
        ("SELECT try_embed(text, 'minilm'), embed(text, 'minilm') FROM t", 22),
    ] {
        let answer = try_ask(&context, query).await.unwrap();
        assert_eq!(answer.computed().iter().sum::<u64>(), computed, "{query}");
        // Another session with the same models, in windows of all rows.
        let whole = try_ask(&self::context(), query).await.unwrap();
        let sorted = |answer: &Answer| {
            let text = answer.text();
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&answer), sorted(&whole), "{query}");
    }
}

/// `EXPLAIN` loads no weights, and `EXPLAIN ANALYZE` shows the model's counters.
#[tokio::test(flavor = "multi_thread")]
async fn plans_show_the_model() {
    let context = context();
    let query = "SELECT embed(text, 'minilm') FROM t";
    let plan = try_ask(&context, &format!("EXPLAIN {query}")).await.unwrap().text();
    assert!(
        plan.contains("Model: feature-extraction(t.text) -> __model_1, model=minilm"),
        "{plan}"
    );
    assert!(plan.contains("estimated_tokens="), "{plan}");
    let analyzed = try_ask(&context, &format!("EXPLAIN ANALYZE {query}")).await.unwrap().text();
    for metric in [
        "computed_rows=11",
        "computed_tokens=",
        "padding_share=",
        "batches=",
        "model_time=",
        "queue_time=",
    ] {
        assert!(analyzed.contains(metric), "{metric}: {analyzed}");
    }
}

/// Failed rows are beside the others.
#[tokio::test(flavor = "multi_thread")]
async fn the_twins_keep_the_errors_of_rows() {
    let context = context();
    let options = r#"{"max_length": 4, "truncation": false}"#;
    let query = format!(
        "SELECT id, r['value'] IS NULL AS failed, r['error'] AS error FROM \
         (SELECT id, try_embed(t, 'minilm', options => '{options}') AS r FROM \
          (VALUES (1, 'sea'), (2, 'the sea and the boats and the sea'), (3, NULL)) AS v(id, t)) ORDER BY id"
    );
    let answer = try_ask(&context, &query).await.unwrap().text();
    let lines: Vec<&str> = answer.lines().skip(3).collect();
    assert!(lines[0].contains("false") && !lines[0].contains("tokens"), "{answer}");
    assert!(lines[1].contains("true") && lines[1].contains("tokens"), "{answer}");
    assert!(lines[2].contains("true") && !lines[2].contains("tokens"), "{answer}");
    let failed = error(
        &context,
        &query.replace("try_embed", "embed").replace("r['value']", "r").replace("r['error']", "1"),
    )
    .await;
    assert!(failed.contains("tokens"), "{failed}");
}

/// A caller's own query planner, which does not know models.
#[derive(Debug)]
struct CallersPlanner;

#[async_trait::async_trait]
impl QueryPlanner for CallersPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        DefaultPhysicalPlanner::default().create_physical_plan(plan, session).await
    }
}

/// The session's planner still plans everything but models.
#[tokio::test(flavor = "multi_thread")]
async fn a_callers_query_planner_stays() {
    let config = SessionConfig::new().with_target_partitions(4);
    let state = SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .with_query_planner(Arc::new(CallersPlanner))
        .build();
    let (callers, plain) = (SessionContext::new_with_state(state), context());
    let table = plain.table_provider("t").await.unwrap();
    callers.register_table("t", table).unwrap();
    register(&callers, catalog()).unwrap();
    for query in [
        "SELECT id, embed(text, 'minilm') FROM t WHERE lang = 'de' ORDER BY id LIMIT 2",
        "SELECT id, CASE WHEN stars = 1 THEN classify(text, 'sentiment')['label'] END FROM t ORDER BY id",
        "SELECT id, cosine_similarity(embed(text, 'minilm'), embed('the sea', 'minilm')) AS s FROM t ORDER BY id",
        "SELECT embed(summarize(text, 't5', options => '{\"max_new_tokens\": 3}')['text'], 'minilm') FROM t WHERE id = 1",
        "SELECT a.id FROM t a JOIN t b ON a.id = b.id AND classify(b.text, 'sentiment')['score'] > 0 ORDER BY 1",
    ] {
        let (a, b) =
            (try_ask(&callers, query).await.unwrap(), try_ask(&plain, query).await.unwrap());
        assert_eq!(a.text(), b.text(), "{query}");
        assert_eq!(a.computed(), b.computed(), "{query}");
    }
}

/// Nothing in the session is replaced: a function with one of our names is an error.
#[test]
fn a_callers_functions_stay() {
    let context = SessionContext::new();
    let theirs = create_udf(
        "embed",
        vec![DataType::Utf8],
        DataType::Utf8,
        Volatility::Immutable,
        Arc::new(|args: &[ColumnarValue]| Ok(args[0].clone())),
    );
    context.register_udf(theirs.clone());
    let error = register(&context, catalog()).unwrap_err().to_string();
    assert!(error.contains("has a function `embed` already"), "{error}");
    let state = context.state();
    assert_eq!(state.scalar_functions()["embed"].as_ref(), &theirs);
    assert!(!state.scalar_functions().contains_key("classify"));

    let context = SessionContext::new();
    register(&context, catalog()).unwrap();
    assert!(register(&context, catalog()).is_err());
}

/// Partitions are merged before a model: it sorts and deduplicates over all rows.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_share_windows() {
    // One window holds all rows, whatever the order of the partitions.
    let settings = BatchSettings { max_batch_tokens: Some(8192), ..BatchSettings::default() };
    let models = minilm_with(settings);
    let mut shares = Vec::new();
    for partitions in [1, 8] {
        let config = SessionConfig::new().with_target_partitions(partitions);
        let context = context_over(config, &models);
        let path = sample_rows();
        context
            .register_parquet("reviews", path.to_str().unwrap(), ParquetReadOptions::default())
            .await
            .unwrap();
        let query = "SELECT id, embed(text, 'minilm') FROM reviews WHERE id % 2 = 0";
        let answer = try_ask(&context, query).await.unwrap();
        shares.push((answer.computed(), answer.models[0].1.padding_share()));
    }
    assert_eq!(shares[0].0, shares[1].0);
    assert!(shares[1].1 <= shares[0].1 + 1e-9, "{shares:?}");
}

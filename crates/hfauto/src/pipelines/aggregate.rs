//! Aggregates scored tokens to entities, by the aggregation strategies of transformers, on plain data.
//!
//! # Source
//! `src/transformers/pipelines/token_classification.py` at v4.57: `aggregate` and its helpers, and
//! `aggregate_overlapping_entities`. Scores are f32, as numpy's there.

use serde::Deserialize;

use crate::auto::AutoConfig;
use crate::error::Result;

/// How tokens are aggregated to entities, as `aggregation_strategy` of transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AggregationStrategy {
    /// One entity per token.
    #[default]
    None,
    /// Joins adjacent tokens with the same label.
    Simple,
    /// Words with the label of their first token, then joined.
    First,
    /// Words with the mean of their tokens' scores, then joined.
    Average,
    /// Words with the highest score of their tokens, then joined.
    Max,
}

impl AggregationStrategy {
    /// The name in transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Simple => "simple",
            Self::First => "first",
            Self::Average => "average",
            Self::Max => "max",
        }
    }
}

/// A token other than special tokens, with a score per label.
#[derive(Clone, Debug)]
pub struct TokenScores<'a> {
    /// The token as in the vocabulary (`##ed`, `Ġthe`).
    pub word: String,
    /// A score per label.
    pub scores: &'a [f32],
    /// The start in the text, in characters.
    pub start: u32,
    /// The end in the text, exclusive, in characters.
    pub end: u32,
    /// The index among the tokens of the sequence, including special tokens.
    pub index: u32,
    /// Whether the token continues the previous token's word.
    pub is_subword: bool,
}

/// A labelled span of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity<'a> {
    /// The label, without `B-` or `I-` if tokens are joined.
    pub label: &'a str,
    /// The label's probability.
    pub score: f32,
    /// The span as its tokens spell it.
    pub word: String,
    /// The start in the text, in characters.
    pub start: u32,
    /// The end in the text, exclusive, in characters.
    pub end: u32,
    /// The token's index; meaningful only if tokens are not joined.
    pub index: u32,
}

/// Joins tokens, or words, to a text.
pub type ToText<'a> = dyn Fn(Vec<String>) -> Result<String> + 'a;

/// Aggregates the tokens of a sequence to entities.
pub struct Aggregation<'a> {
    /// How tokens and their scores are joined.
    pub strategy: AggregationStrategy,
    /// The configuration that maps scores to labels.
    pub config: &'a AutoConfig,
    /// Labels whose entities are dropped.
    pub ignore_labels: &'a [String],
    /// Joins the words of tokens to a text.
    pub to_text: &'a ToText<'a>,
}

impl<'a> Aggregation<'a> {
    /// The entities of one sequence, in token order.
    ///
    /// # Errors
    /// When tokens cannot be joined to a text.
    pub fn entities(&self, tokens: Vec<TokenScores<'_>>) -> Result<Vec<Entity<'a>>> {
        let mut entities = match self.strategy {
            AggregationStrategy::None => self.tokens(tokens)?,
            AggregationStrategy::Simple => self.groups(self.tokens(tokens)?)?,
            AggregationStrategy::First
            | AggregationStrategy::Average
            | AggregationStrategy::Max => self.groups(self.words(tokens)?)?,
        };
        entities.retain(|entity| !self.ignore_labels.iter().any(|label| label == entity.label));
        Ok(entities)
    }

    /// One entity per token.
    fn tokens(&self, tokens: Vec<TokenScores<'_>>) -> Result<Vec<Entity<'a>>> {
        let entity = |token: TokenScores<'_>| {
            let (label, score) = self.best(token.scores)?;
            let TokenScores { word, start, end, index, .. } = token;
            Ok(Entity { label, score, word, start, end, index })
        };
        tokens.into_iter().map(entity).collect()
    }

    /// One entity per word. The first token starts a word even if it is a subword.
    fn words(&self, tokens: Vec<TokenScores<'_>>) -> Result<Vec<Entity<'a>>> {
        let mut words = Vec::new();
        let mut word: Vec<TokenScores<'_>> = Vec::new();
        for token in tokens {
            if !word.is_empty() && !token.is_subword {
                words.push(self.word(std::mem::take(&mut word))?);
            }
            word.push(token);
        }
        if !word.is_empty() {
            words.push(self.word(word)?);
        }
        Ok(words)
    }

    /// A word of at least one token, with the label that the strategy selects.
    fn word(&self, tokens: Vec<TokenScores<'_>>) -> Result<Entity<'a>> {
        let first = &tokens[0];
        let (label, score) = match self.strategy {
            AggregationStrategy::Average => {
                let mut mean = vec![0.0; first.scores.len()];
                for token in &tokens {
                    for (mean, score) in mean.iter_mut().zip(token.scores) {
                        *mean += score;
                    }
                }
                for mean in &mut mean {
                    *mean /= tokens.len() as f32;
                }
                self.best(&mean)?
            }
            AggregationStrategy::Max => {
                let best = tokens.iter().map(|token| self.best(token.scores));
                let best = best.collect::<Result<Vec<_>>>()?.into_iter();
                // Ties go to the first.
                best.reduce(|best, other| if other.1 > best.1 { other } else { best })
                    .unwrap_or_default()
            }
            _ => self.best(first.scores)?,
        };
        let (start, index) = (first.start, first.index);
        let end = tokens.last().map_or(first.end, |token| token.end);
        let word = (self.to_text)(tokens.into_iter().map(|token| token.word).collect())?;
        Ok(Entity { label, score, word, start, end, index })
    }

    /// Joins adjacent entities with the same label; `B-` starts a new one.
    fn groups(&self, entities: Vec<Entity<'a>>) -> Result<Vec<Entity<'a>>> {
        let mut groups = Vec::new();
        let mut group: Vec<Entity<'a>> = Vec::new();
        for entity in entities {
            if let Some(last) = group.last() {
                let (begins, name) = tag(entity.label);
                if begins || name != tag(last.label).1 {
                    groups.push(self.group(std::mem::take(&mut group))?);
                }
            }
            group.push(entity);
        }
        if !group.is_empty() {
            groups.push(self.group(group)?);
        }
        Ok(groups)
    }

    fn group(&self, entities: Vec<Entity<'a>>) -> Result<Entity<'a>> {
        let first = &entities[0];
        // Unlike `tag`, this removes everything before the first dash, even if it is not `B` or `I`.
        let label = first.label.split_once('-').map_or(first.label, |(_, label)| label);
        let sum: f32 = entities.iter().map(|entity| entity.score).sum();
        let score = sum / entities.len() as f32;
        let (start, index) = (first.start, first.index);
        let end = entities.last().map_or(first.end, |entity| entity.end);
        let word = (self.to_text)(entities.into_iter().map(|entity| entity.word).collect())?;
        Ok(Entity { label, score, word, start, end, index })
    }

    /// The label with the highest score; ties go to the first.
    fn best(&self, scores: &[f32]) -> Result<(&'a str, f32)> {
        let mut best = 0;
        for (label, score) in scores.iter().enumerate() {
            if *score > scores[best] {
                best = label;
            }
        }
        Ok((self.config.label(best)?, scores.get(best).copied().unwrap_or_default()))
    }
}

/// A label without `B-` or `I-`, and whether it starts an entity.
fn tag(label: &str) -> (bool, &str) {
    match (label.strip_prefix("B-"), label.strip_prefix("I-")) {
        (Some(tag), _) => (true, tag),
        (None, Some(tag)) => (false, tag),
        (None, None) => (false, label),
    }
}

/// Merges the entities of all windows of a text. Among overlapping entities, keeps the longest, and among equally long
/// ones, the one with the highest score.
pub fn merge_windows(mut entities: Vec<Entity<'_>>) -> Vec<Entity<'_>> {
    entities.sort_by_key(|entity| entity.start);
    let mut merged = Vec::with_capacity(entities.len());
    let Some(mut previous) = entities.first().cloned() else { return merged };
    // Starts at the first entity, as transformers does. An empty entity does not overlap itself, and so occurs twice.
    for entity in entities {
        if (previous.start..previous.end).contains(&entity.start) {
            let length = |entity: &Entity<'_>| i64::from(entity.end) - i64::from(entity.start);
            let (new, old) = (length(&entity), length(&previous));
            if new > old || (new == old && entity.score > previous.score) {
                previous = entity;
            }
        } else {
            merged.push(std::mem::replace(&mut previous, entity));
        }
    }
    merged.push(previous);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [&str; 5] = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"];

    /// A token whose best label has `score`; the other labels share the rest equally.
    struct Given {
        word: &'static str,
        scores: Vec<f32>,
        at: (u32, u32),
        is_subword: bool,
    }

    fn given(word: &'static str, label: usize, score: f32, at: (u32, u32)) -> Given {
        let mut scores = vec![(1.0 - score) / 4.0; 5];
        scores[label] = score;
        Given { word, scores, at, is_subword: word.starts_with("##") }
    }

    fn run(strategy: AggregationStrategy, ignore: &[&str], tokens: &[Given]) -> Vec<String> {
        let labels: serde_json::Map<String, serde_json::Value> = LABELS
            .iter()
            .enumerate()
            .map(|(id, label)| (id.to_string(), (*label).into()))
            .collect();
        let json = serde_json::json!({"model_type": "bert", "id2label": labels});
        let config =
            AutoConfig::from_json(json.as_object().unwrap().clone(), &serde_json::Map::new());
        let config = config.unwrap();
        let ignore: Vec<String> = ignore.iter().map(|label| (*label).to_owned()).collect();
        let to_text = |words: Vec<String>| Ok(words.join(" ").replace(" ##", ""));
        let aggregation =
            Aggregation { strategy, config: &config, ignore_labels: &ignore, to_text: &to_text };
        let tokens = tokens.iter().enumerate().map(|(index, token)| TokenScores {
            word: token.word.to_owned(),
            scores: &token.scores,
            start: token.at.0,
            end: token.at.1,
            index: index as u32 + 1,
            is_subword: token.is_subword,
        });
        let entities = aggregation.entities(tokens.collect()).unwrap();
        entities.iter().map(shown).collect()
    }

    fn shown(entity: &Entity<'_>) -> String {
        let Entity { label, score, word, start, end, .. } = entity;
        format!("{label} {score:.3} {word} {start}..{end}")
    }

    /// `Anna Kowalska in Porto-Novo`, with tokens that disagree.
    fn tokens() -> Vec<Given> {
        vec![
            given("anna", 1, 0.9, (0, 4)),
            given("ko", 2, 0.5, (5, 7)),
            given("##wal", 4, 0.8, (7, 10)),
            given("##ska", 4, 0.6, (10, 13)),
            given("in", 0, 0.9, (14, 16)),
            given("porto", 3, 0.7, (17, 22)),
            given("-", 3, 0.6, (22, 23)),
            given("novo", 4, 0.5, (23, 27)),
        ]
    }

    #[test]
    fn strategies() {
        use AggregationStrategy::{Average, First, Max, None, Simple};
        let ignored = ["O"];
        assert_eq!(
            run(None, &["O", "I-LOC"], &tokens()),
            [
                "B-PER 0.900 anna 0..4",
                "I-PER 0.500 ko 5..7",
                "B-LOC 0.700 porto 17..22",
                "B-LOC 0.600 - 22..23"
            ]
        );
        assert_eq!(
            run(Simple, &ignored, &tokens()),
            [
                "PER 0.700 anna ko 0..7",
                "LOC 0.700 ##walska 7..13",
                "LOC 0.700 porto 17..22",
                "LOC 0.550 - novo 22..27"
            ]
        );
        assert_eq!(
            run(First, &ignored, &tokens())[..1],
            ["PER 0.700 anna kowalska 0..13".to_owned()]
        );
        assert_eq!(
            run(Max, &ignored, &tokens())[..2],
            ["PER 0.900 anna 0..4".to_owned(), "LOC 0.800 kowalska 5..13".to_owned()]
        );
        // (0.125 + 0.8 + 0.6) / 3
        assert_eq!(run(Average, &ignored, &tokens())[1], "LOC 0.508 kowalska 5..13");
    }

    #[test]
    fn groups_are_ignored_by_the_name_of_the_group() {
        let labels = |ignore: &[&str]| {
            let spans = run(AggregationStrategy::Simple, ignore, &tokens());
            spans
                .iter()
                .filter_map(|span| span.split(' ').next().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        assert_eq!(labels(&[]), ["PER", "LOC", "O", "LOC", "LOC"]);
        assert_eq!(labels(&["O", "PER", "I-LOC"]), ["LOC", "LOC", "LOC"]);
    }

    #[test]
    fn no_tokens_give_no_entities() {
        assert!(run(AggregationStrategy::First, &[], &[]).is_empty());
        assert!(run(AggregationStrategy::Simple, &[], &[]).is_empty());
    }

    #[test]
    fn tags() {
        assert_eq!(tag("B-PER"), (true, "PER"));
        assert_eq!(tag("I-A-B"), (false, "A-B"));
        assert_eq!(tag("NOUN"), (false, "NOUN"));
        assert_eq!(tag("S-PER"), (false, "S-PER"));
    }

    #[test]
    fn overlapping_entities_keep_the_longest_then_the_best() {
        let entity = |start, end, score| Entity {
            label: "PER",
            score,
            word: String::new(),
            start,
            end,
            index: 0,
        };
        for (entities, expected) in [
            (vec![entity(5, 9, 0.5), entity(0, 4, 0.9)], vec![(0, 4, 0.9), (5, 9, 0.5)]),
            (vec![entity(0, 4, 0.9), entity(2, 9, 0.1)], vec![(2, 9, 0.1)]),
            (vec![entity(0, 4, 0.5), entity(0, 4, 0.6)], vec![(0, 4, 0.6)]),
            (vec![entity(0, 4, 0.5), entity(0, 4, 0.5)], vec![(0, 4, 0.5)]),
            (vec![entity(0, 4, 0.5), entity(4, 6, 0.5)], vec![(0, 4, 0.5), (4, 6, 0.5)]),
            (vec![entity(3, 3, 0.5)], vec![(3, 3, 0.5), (3, 3, 0.5)]),
            (Vec::new(), Vec::new()),
        ] {
            let merged = merge_windows(entities);
            let merged: Vec<_> = merged.iter().map(|e| (e.start, e.end, e.score)).collect();
            assert_eq!(merged, expected);
        }
    }
}

//! The Auto classes by name: what pipeline files say and the columns of the table in `crate::auto`.

use std::fmt;

/// An Auto class of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AutoClass {
    /// `AutoModel`: the architecture without a head.
    Model,
    /// `AutoModelForCausalLM`.
    CausalLM,
    /// `AutoModelForMaskedLM`.
    MaskedLM,
    /// `AutoModelForSeq2SeqLM`.
    Seq2SeqLM,
    /// `AutoModelForSequenceClassification`.
    SequenceClassification,
    /// `AutoModelForQuestionAnswering`.
    QuestionAnswering,
    /// `AutoModelForTokenClassification`.
    TokenClassification,
    /// `AutoModelForMultipleChoice`.
    MultipleChoice,
    /// `AutoModelForNextSentencePrediction`.
    NextSentencePrediction,
    /// `AutoModelForImageClassification`.
    ImageClassification,
    /// `AutoModelForZeroShotImageClassification`.
    ZeroShotImageClassification,
}

impl AutoClass {
    /// Every Auto class, in the order of the table.
    pub const ALL: [Self; 11] = [
        Self::Model,
        Self::CausalLM,
        Self::MaskedLM,
        Self::Seq2SeqLM,
        Self::SequenceClassification,
        Self::QuestionAnswering,
        Self::TokenClassification,
        Self::MultipleChoice,
        Self::NextSentencePrediction,
        Self::ImageClassification,
        Self::ZeroShotImageClassification,
    ];

    /// The class's name in transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "AutoModel",
            Self::CausalLM => "AutoModelForCausalLM",
            Self::MaskedLM => "AutoModelForMaskedLM",
            Self::Seq2SeqLM => "AutoModelForSeq2SeqLM",
            Self::SequenceClassification => "AutoModelForSequenceClassification",
            Self::QuestionAnswering => "AutoModelForQuestionAnswering",
            Self::TokenClassification => "AutoModelForTokenClassification",
            Self::MultipleChoice => "AutoModelForMultipleChoice",
            Self::NextSentencePrediction => "AutoModelForNextSentencePrediction",
            Self::ImageClassification => "AutoModelForImageClassification",
            Self::ZeroShotImageClassification => "AutoModelForZeroShotImageClassification",
        }
    }

    /// The class of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

impl fmt::Display for AutoClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

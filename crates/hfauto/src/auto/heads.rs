//! The head layouts of the families: their layers, the tensor names, and the states that they read.
//!
//! # Source
//! The `…For…` classes of `modeling_*.py` in `src/transformers/models` at v4.57.

use super::families::{FamilyHead, FamilyHead as Row, LoadBackbone, MT5_MODEL, T5_MODEL};
use crate::auto_class::AutoClass;
use crate::models::{Epsilon, HeadLayout, Layer, Reads};
use crate::nn::Activation;

const POOLER: [Layer; 2] = [Layer::Dense("pooler.dense"), Layer::Activation(Activation::Tanh)];

const fn row(class: AutoClass, reads: Reads, layers: &'static [Layer]) -> FamilyHead {
    Row { class, architecture: None, layout: HeadLayout { reads, layers }, backbone: None }
}

/// `classifier` on every token.
const TOKENS: Row =
    row(AutoClass::TokenClassification, Reads::Tokens, &[Layer::Labels("classifier")]);

/// `qa_outputs` on every token: the start and the end of the answer.
const ANSWER: Row =
    row(AutoClass::QuestionAnswering, Reads::Tokens, &[Layer::Outputs("qa_outputs", 2)]);

/// The pooler, then one logit per choice.
const CHOICE: Row = row(
    AutoClass::MultipleChoice,
    Reads::First,
    &[POOLER[0], POOLER[1], Layer::Outputs("classifier", 1)],
);

const BERT_VOCABULARY: [Layer; 4] = [
    Layer::Dense("cls.predictions.transform.dense"),
    Layer::ConfigActivation("hidden_act"),
    Layer::LayerNorm(
        "cls.predictions.transform.LayerNorm",
        Epsilon::Config("layer_norm_eps", 1e-12),
    ),
    Layer::Vocabulary(
        "cls.predictions.decoder",
        &["cls.predictions.bias", "cls.predictions.decoder.bias"],
    ),
];

/// Heads of BERT.
pub(super) static BERT: [Row; 7] = [
    row(AutoClass::CausalLM, Reads::Tokens, &BERT_VOCABULARY),
    row(AutoClass::MaskedLM, Reads::Tokens, &BERT_VOCABULARY),
    row(
        AutoClass::SequenceClassification,
        Reads::First,
        &[POOLER[0], POOLER[1], Layer::Labels("classifier")],
    ),
    ANSWER,
    TOKENS,
    CHOICE,
    row(
        AutoClass::NextSentencePrediction,
        Reads::First,
        &[POOLER[0], POOLER[1], Layer::Outputs("cls.seq_relationship", 2)],
    ),
];

const ROBERTA_VOCABULARY: [Layer; 4] = [
    Layer::Dense("lm_head.dense"),
    Layer::Activation(Activation::Gelu),
    Layer::LayerNorm("lm_head.layer_norm", Epsilon::Config("layer_norm_eps", 1e-12)),
    Layer::Vocabulary("lm_head.decoder", &["lm_head.bias", "lm_head.decoder.bias"]),
];

/// RoBERTa's classifier: a dense layer and tanh on the first token, without the pooler.
const ROBERTA_CLASSIFIER: Row = row(
    AutoClass::SequenceClassification,
    Reads::First,
    &[
        Layer::Dense("classifier.dense"),
        Layer::Activation(Activation::Tanh),
        Layer::Labels("classifier.out_proj"),
    ],
);

/// Heads of RoBERTa, XLM-RoBERTa and CamemBERT.
pub(super) static ROBERTA: [Row; 6] = [
    row(AutoClass::CausalLM, Reads::Tokens, &ROBERTA_VOCABULARY),
    row(AutoClass::MaskedLM, Reads::Tokens, &ROBERTA_VOCABULARY),
    ROBERTA_CLASSIFIER,
    ANSWER,
    TOKENS,
    CHOICE,
];

/// Heads of MPNet: those of RoBERTa, without causal LM.
pub(super) static MPNET: [Row; 5] = [
    row(AutoClass::MaskedLM, Reads::Tokens, &ROBERTA_VOCABULARY),
    ROBERTA_CLASSIFIER,
    ANSWER,
    TOKENS,
    CHOICE,
];

const PRE_CLASSIFIER: [Layer; 2] =
    [Layer::Dense("pre_classifier"), Layer::Activation(Activation::Relu)];

/// Heads of DistilBERT.
pub(super) static DISTILBERT: [Row; 5] = [
    row(
        AutoClass::MaskedLM,
        Reads::Tokens,
        &[
            Layer::Dense("vocab_transform"),
            Layer::ConfigActivation("activation"),
            Layer::LayerNorm("vocab_layer_norm", Epsilon::Is(1e-12)),
            Layer::Vocabulary("vocab_projector", &["vocab_projector.bias"]),
        ],
    ),
    row(
        AutoClass::SequenceClassification,
        Reads::First,
        &[PRE_CLASSIFIER[0], PRE_CLASSIFIER[1], Layer::Labels("classifier")],
    ),
    ANSWER,
    TOKENS,
    row(
        AutoClass::MultipleChoice,
        Reads::First,
        &[PRE_CLASSIFIER[0], PRE_CLASSIFIER[1], Layer::Outputs("classifier", 1)],
    ),
];

/// Heads of GPT-2.
pub(super) static GPT2: [Row; 4] = [
    row(AutoClass::CausalLM, Reads::Tokens, &[Layer::Vocabulary("lm_head", &[])]),
    row(AutoClass::SequenceClassification, Reads::LastNotPad, &[Layer::LabelsNoBias("score")]),
    ANSWER,
    TOKENS,
];

/// `classifier` on the first token, which represents the image.
const IMAGE: Row =
    row(AutoClass::ImageClassification, Reads::First, &[Layer::Labels("classifier")]);

/// Heads of ViT.
pub(super) static VIT: [Row; 1] = [IMAGE];

/// Heads of DeiT: one classifier, or the mean of two in a distilled checkpoint.
pub(super) static DEIT: [Row; 2] = [
    IMAGE,
    Row {
        architecture: Some("DeiTForImageClassificationWithTeacher"),
        ..row(
            AutoClass::ImageClassification,
            Reads::FirstTwo,
            &[Layer::LabelsMean(["cls_classifier", "distillation_classifier"])],
        )
    },
];
/// Heads of T5 and mT5: on the decoder, except token classification, which reads the encoder.
const fn t5(model: LoadBackbone) -> [Row; 4] {
    const VOCABULARY: [Layer; 2] = [Layer::ScaleIfTied, Layer::Vocabulary("lm_head", &[])];
    const CLASSIFICATION_HEAD: [Layer; 3] = [
        Layer::Dense("classification_head.dense"),
        Layer::Activation(Activation::Tanh),
        Layer::Labels("classification_head.out_proj"),
    ];
    let backbone = Some(model);
    [
        Row { backbone, ..row(AutoClass::Seq2SeqLM, Reads::Tokens, &VOCABULARY) },
        Row {
            backbone,
            ..row(AutoClass::SequenceClassification, Reads::LastEos, &CLASSIFICATION_HEAD)
        },
        Row { backbone, ..ANSWER },
        TOKENS,
    ]
}

/// Heads of T5.
pub(super) static T5: [Row; 4] = t5(T5_MODEL);

/// Heads of mT5.
pub(super) static MT5: [Row; 4] = t5(MT5_MODEL);

//! The head layouts of the families: their layers, the tensor names, and the states that they read.
//!
//! # Source
//! The `…For…` classes of `modeling_*.py` in `src/transformers/models` at v4.57.

use self::FamilyHead as Row;
use crate::auto_class::AutoClass;
use crate::error::{Result, cannot_load};
use crate::models::bart::{BartConfig, BartDecoder, BartModel};
use crate::models::beit::{BeitConfig, BeitModel};
use crate::models::clip::clip_vision_section;
use crate::models::siglip::siglip_vision_section;
use crate::models::t5::{T5Config, T5Model};
use crate::models::{
    Backbone, Epsilon, Fields, HeadLayout, Layer, Reads, VisionTower, VisionTowerConfig,
};
use crate::nn::{Activation, VarBuilder};

const POOLER: [Layer; 2] = [Layer::Dense("pooler.dense"), Layer::Activation(Activation::Tanh)];

/// Loads an architecture without a head.
pub type LoadBackbone = fn(&Fields<'_>, VarBuilder<'_>) -> Result<Box<dyn Backbone>>;

/// A head of a family.
#[derive(Clone, Copy, Debug)]
pub struct FamilyHead {
    /// The Auto class that loads it.
    pub class: AutoClass,
    /// The name in `architectures` that selects this row, if the class has several.
    pub architecture: Option<&'static str>,
    /// Its layers.
    pub layout: HeadLayout,
    /// The prefix of tensor names in checkpoints with this head, if it is another one.
    pub base_model_prefix: Option<&'static str>,
    /// The backbone, if it is not the one that `AutoModel` loads (T5 with its decoder).
    pub backbone: Option<LoadBackbone>,
}

fn t5_model(config: &T5Config, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(T5Model::load(vb, config).map_err(cannot_load)?))
}

/// T5's encoder and decoder, the backbone of its heads.
const T5_MODEL: LoadBackbone = |fields, vb| t5_model(&T5Config::t5(fields)?, &vb);

/// mT5's encoder and decoder, the backbone of its heads.
const MT5_MODEL: LoadBackbone = |fields, vb| t5_model(&T5Config::mt5(fields)?, &vb);

/// UMT5's encoder and decoder, the backbone of its heads.
const UMT5_MODEL: LoadBackbone = |fields, vb| t5_model(&T5Config::umt5(fields)?, &vb);

/// The encoder and the decoder of BART and its relatives.
pub(super) fn bart_model(config: &BartConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(BartModel::load(vb, config).map_err(cannot_load)?))
}

/// Their decoder alone.
fn bart_decoder(config: &BartConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(BartDecoder::load(vb, config).map_err(cannot_load)?))
}

const fn row(class: AutoClass, reads: Reads, layers: &'static [Layer]) -> FamilyHead {
    let layout = HeadLayout { reads, layers };
    Row { class, architecture: None, layout, backbone: None, base_model_prefix: None }
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

/// The pooler, then the labels.
const POOLED_LABELS: Row = row(
    AutoClass::SequenceClassification,
    Reads::First,
    &[POOLER[0], POOLER[1], Layer::Labels("classifier")],
);

const BERT_VOCABULARY: [Layer; 4] = [
    Layer::Dense("cls.predictions.transform.dense"),
    Layer::ConfigActivation("hidden_act", "gelu"),
    Layer::LayerNorm(
        "cls.predictions.transform.LayerNorm",
        Epsilon::Config("layer_norm_eps", 1e-12),
    ),
    Layer::Vocabulary(
        "cls.predictions.decoder",
        &["cls.predictions.decoder.bias", "cls.predictions.bias"],
    ),
];

/// Heads of BERT.
pub(super) static BERT: [Row; 7] = [
    row(AutoClass::CausalLM, Reads::Tokens, &BERT_VOCABULARY),
    row(AutoClass::MaskedLM, Reads::Tokens, &BERT_VOCABULARY),
    POOLED_LABELS,
    ANSWER,
    TOKENS,
    CHOICE,
    row(
        AutoClass::NextSentencePrediction,
        Reads::First,
        &[POOLER[0], POOLER[1], Layer::Outputs("cls.seq_relationship", 2)],
    ),
];

/// Heads of `JinaBERT`: those of BERT, without causal LM and next sentence prediction.
pub(super) static JINA_BERT: [Row; 5] = [
    row(AutoClass::MaskedLM, Reads::Tokens, &BERT_VOCABULARY),
    POOLED_LABELS,
    ANSWER,
    TOKENS,
    CHOICE,
];

const ROBERTA_VOCABULARY: [Layer; 4] = roberta_vocabulary(1e-12);

/// RoBERTa's head over the vocabulary with this default of `layer_norm_eps`.
const fn roberta_vocabulary(eps: f64) -> [Layer; 4] {
    [
        Layer::Dense("lm_head.dense"),
        Layer::Activation(Activation::Gelu),
        Layer::LayerNorm("lm_head.layer_norm", Epsilon::Config("layer_norm_eps", eps)),
        Layer::Vocabulary("lm_head.decoder", &["lm_head.decoder.bias", "lm_head.bias"]),
    ]
}

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
pub(super) static ROBERTA: [Row; 6] = roberta(&ROBERTA_VOCABULARY);

const fn roberta(vocabulary: &'static [Layer]) -> [Row; 6] {
    [
        row(AutoClass::CausalLM, Reads::Tokens, vocabulary),
        row(AutoClass::MaskedLM, Reads::Tokens, vocabulary),
        ROBERTA_CLASSIFIER,
        ANSWER,
        TOKENS,
        CHOICE,
    ]
}

const XLM_ROBERTA_XL_VOCABULARY: [Layer; 4] = roberta_vocabulary(1e-5);

/// Heads of XLM-RoBERTa-XL.
pub(super) static XLM_ROBERTA_XL: [Row; 6] = roberta(&XLM_ROBERTA_XL_VOCABULARY);

const JINA_EMBEDDINGS_V3_VOCABULARY: [Layer; 4] = roberta_vocabulary(1e-5);

/// Heads of Jina Embeddings v3.
pub(super) static JINA_EMBEDDINGS_V3: [Row; 4] = [
    row(AutoClass::MaskedLM, Reads::Tokens, &JINA_EMBEDDINGS_V3_VOCABULARY),
    ROBERTA_CLASSIFIER,
    ANSWER,
    TOKENS,
];

const ELECTRA_VOCABULARY: [Layer; 4] = [
    Layer::DenseToEmbeddings("generator_predictions.dense"),
    Layer::Activation(Activation::Gelu),
    Layer::LayerNorm("generator_predictions.LayerNorm", Epsilon::Config("layer_norm_eps", 1e-12)),
    Layer::Vocabulary("generator_lm_head", &["generator_lm_head.bias"]),
];

/// Heads of ELECTRA.
pub(super) static ELECTRA: [Row; 6] = [
    row(AutoClass::CausalLM, Reads::Tokens, &ELECTRA_VOCABULARY),
    row(AutoClass::MaskedLM, Reads::Tokens, &ELECTRA_VOCABULARY),
    row(
        AutoClass::SequenceClassification,
        Reads::First,
        &[
            Layer::Dense("classifier.dense"),
            Layer::Activation(Activation::Gelu),
            Layer::Labels("classifier.out_proj"),
        ],
    ),
    ANSWER,
    TOKENS,
    row(
        AutoClass::MultipleChoice,
        Reads::First,
        &[
            Layer::Dense("sequence_summary.summary"),
            Layer::ConfigActivation("summary_activation", "gelu"),
            Layer::Outputs("classifier", 1),
        ],
    ),
];

/// The pooler of ALBERT, then `last`.
const fn albert(last: Layer) -> [Layer; 3] {
    [Layer::Dense("pooler"), Layer::Activation(Activation::Tanh), last]
}

const ALBERT_LABELS: [Layer; 3] = albert(Layer::Labels("classifier"));
const ALBERT_CHOICE: [Layer; 3] = albert(Layer::Outputs("classifier", 1));

/// Heads of ALBERT.
pub(super) static ALBERT: [Row; 5] = [
    row(
        AutoClass::MaskedLM,
        Reads::Tokens,
        &[
            Layer::DenseToEmbeddings("predictions.dense"),
            Layer::ConfigActivation("hidden_act", "gelu_new"),
            Layer::LayerNorm("predictions.LayerNorm", Epsilon::Config("layer_norm_eps", 1e-12)),
            Layer::Vocabulary(
                "predictions.decoder",
                &["predictions.decoder.bias", "predictions.bias"],
            ),
        ],
    ),
    row(AutoClass::SequenceClassification, Reads::First, &ALBERT_LABELS),
    ANSWER,
    TOKENS,
    row(AutoClass::MultipleChoice, Reads::First, &ALBERT_CHOICE),
];

/// The head over the vocabulary of `DeBERTa`: with `legacy`, BERT's, else that of Microsoft's checkpoints.
const DEBERTA_VOCABULARY: [Layer; 4] = {
    const EPSILON: Epsilon = Epsilon::Config("layer_norm_eps", 1e-7);
    [
        Layer::Choice(
            "legacy",
            true,
            &Layer::DenseToEmbeddings("cls.predictions.transform.dense"),
            &Layer::DenseToEmbeddings("lm_predictions.lm_head.dense"),
        ),
        Layer::ConfigActivation("hidden_act", "gelu"),
        Layer::Choice(
            "legacy",
            true,
            &Layer::LayerNorm("cls.predictions.transform.LayerNorm", EPSILON),
            &Layer::LayerNorm("lm_predictions.lm_head.LayerNorm", EPSILON),
        ),
        Layer::Choice(
            "legacy",
            true,
            &Layer::Vocabulary(
                "cls.predictions.decoder",
                &["cls.predictions.decoder.bias", "cls.predictions.bias"],
            ),
            &Layer::Vocabulary("lm_predictions.lm_head.decoder", &["lm_predictions.lm_head.bias"]),
        ),
    ]
};

/// The pooler of `DeBERTa`, then `last`.
const fn deberta(last: Layer) -> [Layer; 3] {
    [Layer::Dense("pooler.dense"), Layer::ConfigActivation("pooler_hidden_act", "gelu"), last]
}

const DEBERTA_LABELS: [Layer; 3] = deberta(Layer::Labels("classifier"));
const DEBERTA_CHOICE: [Layer; 3] = deberta(Layer::Outputs("classifier", 1));

/// Heads of `DeBERTa` v1.
pub(super) static DEBERTA: [Row; 4] = [
    row(AutoClass::MaskedLM, Reads::Tokens, &DEBERTA_VOCABULARY),
    row(AutoClass::SequenceClassification, Reads::First, &DEBERTA_LABELS),
    ANSWER,
    TOKENS,
];

/// Heads of `DeBERTa` v2 and v3.
pub(super) static DEBERTA_V2: [Row; 5] = [
    row(AutoClass::MaskedLM, Reads::Tokens, &DEBERTA_VOCABULARY),
    row(AutoClass::SequenceClassification, Reads::First, &DEBERTA_LABELS),
    ANSWER,
    TOKENS,
    row(AutoClass::MultipleChoice, Reads::First, &DEBERTA_CHOICE),
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
            Layer::ConfigActivation("activation", "gelu"),
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

/// `score` on the last token that is not padding.
const SCORE: Row =
    row(AutoClass::SequenceClassification, Reads::LastNotPad, &[Layer::LabelsNoBias("score")]);

/// `score` on every token.
const SCORES: Row = row(AutoClass::TokenClassification, Reads::Tokens, &[Layer::Labels("score")]);

const LM_HEAD: Layer = Layer::Vocabulary("lm_head", &[]);

/// Heads of Mistral and Mixtral.
pub(super) static MISTRAL: [Row; 4] =
    [row(AutoClass::CausalLM, Reads::Tokens, &[LM_HEAD]), SCORE, ANSWER, SCORES];

/// Heads of Llama, Qwen2, Qwen3 and SmolLM3: Mistral's, with an old prefix of question answering.
pub(super) static LLAMA: [Row; 4] = [
    row(AutoClass::CausalLM, Reads::Tokens, &[LM_HEAD]),
    SCORE,
    Row { base_model_prefix: Some("transformer"), ..ANSWER },
    SCORES,
];

/// Heads of Phi-3, Gemma, StableLM and StarCoder 2.
pub(super) static GEMMA: [Row; 3] =
    [row(AutoClass::CausalLM, Reads::Tokens, &[LM_HEAD]), SCORE, SCORES];

/// Heads of Gemma 2, whose logits over the vocabulary are capped.
pub(super) static GEMMA2: [Row; 3] = [
    row(
        AutoClass::CausalLM,
        Reads::Tokens,
        &[LM_HEAD, Layer::Softcap("final_logit_softcapping", Some(30.0))],
    ),
    SCORE,
    SCORES,
];

/// Heads of Gemma 3's text model.
pub(super) static GEMMA3_TEXT: [Row; 2] = [
    row(
        AutoClass::CausalLM,
        Reads::Tokens,
        &[LM_HEAD, Layer::Softcap("final_logit_softcapping", None)],
    ),
    SCORE,
];

/// Heads of OLMo 2.
pub(super) static OLMO2: [Row; 2] = [row(AutoClass::CausalLM, Reads::Tokens, &[LM_HEAD]), SCORE];

/// The head of Granite, whose logits are divided.
pub(super) static GRANITE: [Row; 1] =
    [row(AutoClass::CausalLM, Reads::Tokens, &[LM_HEAD, Layer::Divide("logits_scaling", 1.0)])];

const LM_HEAD_WITH_BIAS: Layer = Layer::Vocabulary("lm_head", &["lm_head.bias"]);

/// Heads of Phi.
pub(super) static PHI: [Row; 3] =
    [row(AutoClass::CausalLM, Reads::Tokens, &[LM_HEAD_WITH_BIAS]), SCORE, SCORES];

/// Heads of GPT-J.
pub(super) static GPTJ: [Row; 3] =
    [row(AutoClass::CausalLM, Reads::Tokens, &[LM_HEAD_WITH_BIAS]), SCORE, ANSWER];

/// Heads of GPT-NeoX.
pub(super) static GPT_NEOX: [Row; 4] = [
    row(AutoClass::CausalLM, Reads::Tokens, &[Layer::Vocabulary("embed_out", &[])]),
    SCORE,
    ANSWER,
    TOKENS,
];

/// Heads of OPT.
pub(super) static OPT: [Row; 3] =
    [row(AutoClass::CausalLM, Reads::Tokens, &[LM_HEAD]), SCORE, ANSWER];

/// Heads of GPT-2, GPT-Neo, Bloom and Falcon.
pub(super) static GPT2: [Row; 4] =
    [row(AutoClass::CausalLM, Reads::Tokens, &[LM_HEAD]), SCORE, ANSWER, TOKENS];

/// `classifier` on the first token, which represents the image.
const IMAGE: Row =
    row(AutoClass::ImageClassification, Reads::First, &[Layer::Labels("classifier")]);

/// Heads of ViT.
pub(super) static VIT: [Row; 1] = [IMAGE];

/// The vector of a text or an image in the space of both.
const COMPARABLE: Row =
    row(AutoClass::ZeroShotImageClassification, Reads::Pooled, &[Layer::Normalize]);

/// Heads of CLIP: the classifier is on its encoder of images alone.
pub(super) static CLIP: [Row; 2] = [
    Row {
        backbone: Some(|fields, vb| vision_tower(&clip_vision_section(fields)?, &vb)),
        ..row(AutoClass::ImageClassification, Reads::MeanOfPatches, &[Layer::Labels("classifier")])
    },
    COMPARABLE,
];

/// Heads of SigLIP.
pub(super) static SIGLIP: [Row; 2] = [
    Row {
        backbone: Some(|fields, vb| vision_tower(&siglip_vision_section(fields)?, &vb)),
        ..row(AutoClass::ImageClassification, Reads::Mean, &[Layer::Labels("classifier")])
    },
    COMPARABLE,
];

/// The encoder of images of a model of texts and images.
fn vision_tower(config: &VisionTowerConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(VisionTower::load(&vb.pp("vision_model"), config).map_err(cannot_load)?))
}

/// Heads of DINOv2.
pub(super) static DINOV2: [Row; 1] = [row(
    AutoClass::ImageClassification,
    Reads::FirstAndMeanOfPatches,
    &[Layer::Labels("classifier")],
)];

/// `classifier` on the pooled vector.
const POOLED_IMAGE: Row =
    row(AutoClass::ImageClassification, Reads::Pooled, &[Layer::Labels("classifier")]);

/// Heads of `ConvNeXT`.
pub(super) static CONVNEXT: [Row; 1] = [POOLED_IMAGE];

/// Heads of Swin.
pub(super) static SWIN: [Row; 1] = [POOLED_IMAGE];

/// Heads of BEiT and Data2VecVision.
pub(super) static BEIT: [Row; 1] = [Row {
    backbone: Some(|fields, vb| {
        let config = BeitConfig::with_pooler(fields)?;
        Ok(Box::new(BeitModel::load(&vb, config).map_err(cannot_load)?))
    }),
    ..POOLED_IMAGE
}];

/// The classifier of ResNet.
pub(super) static RESNET: [Row; 1] =
    [row(AutoClass::ImageClassification, Reads::Pooled, &[Layer::Labels("classifier.1")])];

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

const CLASSIFICATION_HEAD: [Layer; 3] = [
    Layer::Dense("classification_head.dense"),
    Layer::Activation(Activation::Tanh),
    Layer::Labels("classification_head.out_proj"),
];

/// Heads of T5, mT5 and UMT5: on the decoder, except token classification, which reads the encoder.
const fn t5(model: LoadBackbone, vocabulary: &'static [Layer]) -> [Row; 4] {
    let backbone = Some(model);
    [
        Row { backbone, ..row(AutoClass::Seq2SeqLM, Reads::Tokens, vocabulary) },
        Row {
            backbone,
            ..row(AutoClass::SequenceClassification, Reads::LastEos, &CLASSIFICATION_HEAD)
        },
        Row { backbone, ..ANSWER },
        TOKENS,
    ]
}

/// Heads of T5.
pub(super) static T5: [Row; 4] = t5(T5_MODEL, &[Layer::ScaleUnlessUntied, LM_HEAD]);

/// Heads of mT5.
pub(super) static MT5: [Row; 4] = t5(MT5_MODEL, &[LM_HEAD]);

/// Heads of UMT5.
pub(super) static UMT5: [Row; 4] = t5(UMT5_MODEL, &[Layer::ScaleUnlessUntied, LM_HEAD]);

const FINAL_LOGITS_BIAS: [Layer; 1] = [Layer::BiasedVocabulary("lm_head", "final_logits_bias")];

/// A language model on the decoder alone.
const fn decoder_lm(decoder: LoadBackbone) -> Row {
    Row { backbone: Some(decoder), ..row(AutoClass::CausalLM, Reads::Tokens, &[LM_HEAD]) }
}

/// Heads of BART and mBART.
const fn bart(decoder: LoadBackbone) -> [Row; 5] {
    [
        row(AutoClass::Seq2SeqLM, Reads::Tokens, &FINAL_LOGITS_BIAS),
        decoder_lm(decoder),
        row(AutoClass::MaskedLM, Reads::Tokens, &FINAL_LOGITS_BIAS),
        row(AutoClass::SequenceClassification, Reads::LastEos, &CLASSIFICATION_HEAD),
        ANSWER,
    ]
}

/// Heads of BART.
pub(super) static BART: [Row; 5] = bart(|fields, vb| bart_decoder(&BartConfig::bart(fields)?, &vb));

/// Heads of mBART.
pub(super) static MBART: [Row; 5] =
    bart(|fields, vb| bart_decoder(&BartConfig::mbart(fields)?, &vb));

/// Heads of PEGASUS.
pub(super) static PEGASUS: [Row; 2] = [
    row(AutoClass::Seq2SeqLM, Reads::Tokens, &FINAL_LOGITS_BIAS),
    decoder_lm(|fields, vb| bart_decoder(&BartConfig::pegasus(fields)?, &vb)),
];

/// Heads of Marian.
pub(super) static MARIAN: [Row; 2] = [
    row(AutoClass::Seq2SeqLM, Reads::Tokens, &FINAL_LOGITS_BIAS),
    decoder_lm(|fields, vb| bart_decoder(&BartConfig::marian(fields)?, &vb)),
];

/// Heads of M2M-100.
pub(super) static M2M_100: [Row; 1] = [row(AutoClass::Seq2SeqLM, Reads::Tokens, &[LM_HEAD])];

const MODERNBERT_POOLING: Reads =
    Reads::Configured(&["classifier_pooling"], &[("cls", Reads::First), ("mean", Reads::Mean)]);

/// The layers of ModernBERT's `head`, then `last`.
const fn modernbert(last: Layer) -> [Layer; 4] {
    const EPSILON: Epsilon = Epsilon::Config("norm_eps", 1e-5);
    [
        Layer::Choice(
            "classifier_bias",
            false,
            &Layer::Dense("head.dense"),
            &Layer::DenseNoBias("head.dense"),
        ),
        Layer::ConfigActivation("classifier_activation", "gelu"),
        Layer::Choice(
            "norm_bias",
            false,
            &Layer::LayerNorm("head.norm", EPSILON),
            &Layer::LayerNormNoBias("head.norm", EPSILON),
        ),
        last,
    ]
}

const MODERNBERT_VOCABULARY: [Layer; 4] = modernbert(Layer::Choice(
    "decoder_bias",
    true,
    &Layer::Vocabulary("decoder", &["decoder.bias"]),
    &Layer::Vocabulary("decoder", &[]),
));
const MODERNBERT_LABELS: [Layer; 4] = modernbert(Layer::Labels("classifier"));
const MODERNBERT_ANSWER: [Layer; 4] = modernbert(Layer::Outputs("classifier", 2));
const MODERNBERT_CHOICE: [Layer; 4] = modernbert(Layer::Outputs("classifier", 1));

/// Heads of ModernBERT.
pub(super) static MODERNBERT: [Row; 5] = [
    row(AutoClass::MaskedLM, Reads::Tokens, &MODERNBERT_VOCABULARY),
    row(AutoClass::SequenceClassification, MODERNBERT_POOLING, &MODERNBERT_LABELS),
    row(AutoClass::QuestionAnswering, Reads::Tokens, &MODERNBERT_ANSWER),
    row(AutoClass::TokenClassification, Reads::Tokens, &MODERNBERT_LABELS),
    row(AutoClass::MultipleChoice, MODERNBERT_POOLING, &MODERNBERT_CHOICE),
];

/// Heads of `EuroBERT`. `clf_pooling` is the key of the first checkpoints.
pub(super) static EUROBERT: [Row; 3] = [
    row(
        AutoClass::MaskedLM,
        Reads::Tokens,
        &[Layer::Choice(
            "mlp_bias",
            false,
            &Layer::Vocabulary("lm_head", &["lm_head.bias"]),
            &LM_HEAD,
        )],
    ),
    row(
        AutoClass::SequenceClassification,
        Reads::Configured(
            &["classifier_pooling", "clf_pooling"],
            &[("late", Reads::MeanOfLogits), ("bos", Reads::First), ("mean", Reads::Mean)],
        ),
        &[Layer::Dense("dense"), Layer::Activation(Activation::Gelu), Layer::Labels("classifier")],
    ),
    TOKENS,
];

/// Heads of `NomicBERT`.
pub(super) static NOMIC_BERT: [Row; 3] = [
    row(
        AutoClass::MaskedLM,
        Reads::Tokens,
        &[
            Layer::Dense("cls.predictions.transform.dense"),
            Layer::GateActivation("activation_function", "silu"),
            Layer::LayerNorm(
                "cls.predictions.transform.layer_norm",
                Epsilon::Config("layer_norm_epsilon", 1e-12),
            ),
            BERT_VOCABULARY[3],
        ],
    ),
    POOLED_LABELS,
    TOKENS,
];

/// Heads of GTE.
pub(super) static GTE: [Row; 3] = [
    row(
        AutoClass::MaskedLM,
        Reads::Tokens,
        &[
            Layer::Dense("lm_head.dense"),
            Layer::Activation(Activation::Gelu),
            Layer::LayerNorm("lm_head.norm", Epsilon::Config("layer_norm_eps", 1e-12)),
            Layer::Vocabulary("lm_head.decoder", &["lm_head.decoder.bias"]),
        ],
    ),
    POOLED_LABELS,
    TOKENS,
];

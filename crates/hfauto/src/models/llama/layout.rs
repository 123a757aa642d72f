//! How the checkpoints of a family name the parts of a decoder, and how its layers arrange them. Not here: sizes (`config`). The
//! entry is [`LlamaLayout`].

use crate::nn::NormKind;

/// Names and arrangement of the parts of a decoder. Paths of a layer's parts begin at the layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlamaLayout {
    /// The word embeddings.
    pub embed_tokens: &'static str,
    /// The norm of the embeddings, if there is one (Bloom).
    pub embeddings_norm: Option<&'static str>,
    /// The layers.
    pub layers: &'static str,
    /// The norm after the last layer, if there is one.
    pub norm: Option<&'static str>,
    /// The kind of all norms.
    pub norm_kind: NormKind,
    /// The projections of queries, keys and values.
    pub qkv: QkvLayout,
    /// The projection after attention.
    pub o_proj: &'static str,
    /// The norms of queries and keys.
    pub qk_norms: Option<QkNorms>,
    /// The feed-forward network.
    pub mlp: MlpLayout,
    /// The norms of a layer.
    pub norms: LayerNorms,
    /// How residual connections run.
    pub residual: Residual,
}

/// How checkpoints store queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QkvLayout {
    /// A projection of each.
    Apart([&'static str; 3]),
    /// The same, with features that turn in neighbouring pairs: as many of a head as its rotary embedding has (GPT-J).
    InPairs([&'static str; 3]),
    /// One projection: queries, keys, values.
    Fused(&'static str),
    /// One projection: for each head of keys, the heads of queries that share it, then its keys and values.
    ByGroup(&'static str),
}

/// The norms of queries and keys, by the names of the two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QkNorms {
    /// Of each head, with the same weights.
    Heads([&'static str; 2]),
    /// Of all heads together.
    Whole([&'static str; 2]),
    /// Of each head, with weights of its own below the name, and no biases (StableLM).
    EachHead([&'static str; 2]),
}

/// How checkpoints store the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MlpLayout {
    /// Gate, up- and down-projection.
    Gated([&'static str; 3]),
    /// Gate and up-projection as one, and the down-projection.
    GatedFused([&'static str; 2]),
    /// Two layers with an activation between them.
    Plain([&'static str; 2]),
}

/// The norms of a layer: before attention and the feed-forward network, and of their outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorms {
    /// Of the input of attention.
    pub attention: Option<&'static str>,
    /// Of its output.
    pub attention_output: Option<&'static str>,
    /// Of the input of the feed-forward network.
    pub mlp: Option<&'static str>,
    /// Of its output.
    pub mlp_output: Option<&'static str>,
}

/// How residual connections run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// From before the norms, around attention, then around the feed-forward network.
    Sequential,
    /// From after the norms (Bloom's `apply_residual_connection_post_layernorm`).
    AfterNorms,
    /// Around both, which read the same input. Without a norm of its own, the feed-forward network reads what attention reads.
    Parallel,
    /// As sequential, but the norms that otherwise precede the parts follow the sums (OPT without `do_layer_norm_before`).
    NormsLast,
}

impl LlamaLayout {
    /// That of Llama.
    pub const LLAMA: Self = Self {
        embed_tokens: "embed_tokens",
        embeddings_norm: None,
        layers: "layers",
        norm: Some("norm"),
        norm_kind: NormKind::Rms,
        qkv: QkvLayout::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        o_proj: "self_attn.o_proj",
        qk_norms: None,
        mlp: MlpLayout::Gated(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
        norms: LayerNorms {
            attention: Some("input_layernorm"),
            attention_output: None,
            mlp: Some("post_attention_layernorm"),
            mlp_output: None,
        },
        residual: Residual::Sequential,
    };

    /// That of Phi-3.
    pub const PHI3: Self = Self {
        qkv: QkvLayout::Fused("self_attn.qkv_proj"),
        mlp: MlpLayout::GatedFused(["mlp.gate_up_proj", "mlp.down_proj"]),
        ..Self::LLAMA
    };

    /// That of Qwen3.
    pub const QWEN3: Self = Self {
        qk_norms: Some(QkNorms::Heads(["self_attn.q_norm", "self_attn.k_norm"])),
        ..Self::LLAMA
    };

    /// That of Gemma.
    pub const GEMMA: Self = Self { norm_kind: NormKind::RmsLessOne, ..Self::LLAMA };

    /// That of Gemma 2.
    pub const GEMMA2: Self = Self {
        norms: LayerNorms {
            attention: Some("input_layernorm"),
            attention_output: Some("post_attention_layernorm"),
            mlp: Some("pre_feedforward_layernorm"),
            mlp_output: Some("post_feedforward_layernorm"),
        },
        ..Self::GEMMA
    };

    /// That of Gemma 3's text model.
    pub const GEMMA3_TEXT: Self = Self { qk_norms: Self::QWEN3.qk_norms, ..Self::GEMMA2 };

    /// That of OLMo 2.
    pub const OLMO2: Self = Self {
        qk_norms: Some(QkNorms::Whole(["self_attn.q_norm", "self_attn.k_norm"])),
        norms: LayerNorms {
            attention: None,
            attention_output: Some("post_attention_layernorm"),
            mlp: None,
            mlp_output: Some("post_feedforward_layernorm"),
        },
        ..Self::LLAMA
    };

    /// That of Phi.
    pub const PHI: Self = Self {
        norm: Some("final_layernorm"),
        norm_kind: NormKind::Layer,
        o_proj: "self_attn.dense",
        mlp: MlpLayout::Plain(["mlp.fc1", "mlp.fc2"]),
        norms: LayerNorms { mlp: None, ..Self::LLAMA.norms },
        residual: Residual::Parallel,
        ..Self::LLAMA
    };

    /// That of StableLM.
    pub const STABLELM: Self = Self { norm_kind: NormKind::Layer, ..Self::LLAMA };

    /// That of StarCoder 2.
    pub const STARCODER2: Self = Self {
        norm_kind: NormKind::Layer,
        mlp: MlpLayout::Plain(["mlp.c_fc", "mlp.c_proj"]),
        ..Self::LLAMA
    };

    /// That of GPT-NeoX.
    pub const GPT_NEOX: Self = Self {
        embed_tokens: "embed_in",
        norm: Some("final_layer_norm"),
        norm_kind: NormKind::Layer,
        qkv: QkvLayout::ByGroup("attention.query_key_value"),
        o_proj: "attention.dense",
        mlp: MlpLayout::Plain(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]),
        ..Self::LLAMA
    };

    /// That of Bloom.
    pub const BLOOM: Self = Self {
        embed_tokens: "word_embeddings",
        embeddings_norm: Some("word_embeddings_layernorm"),
        layers: "h",
        norm: Some("ln_f"),
        qkv: QkvLayout::ByGroup("self_attention.query_key_value"),
        o_proj: "self_attention.dense",
        ..Self::GPT_NEOX
    };

    /// That of Falcon.
    pub const FALCON: Self = Self { embeddings_norm: None, ..Self::BLOOM };

    /// That of GPT-J.
    pub const GPTJ: Self = Self {
        embed_tokens: "wte",
        layers: "h",
        norm: Some("ln_f"),
        norm_kind: NormKind::Layer,
        qkv: QkvLayout::InPairs(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
        o_proj: "attn.out_proj",
        mlp: MlpLayout::Plain(["mlp.fc_in", "mlp.fc_out"]),
        norms: LayerNorms {
            attention: Some("ln_1"),
            attention_output: None,
            mlp: None,
            mlp_output: None,
        },
        residual: Residual::Parallel,
        ..Self::LLAMA
    };

    /// That of GPT-Neo.
    pub const GPT_NEO: Self = Self {
        qkv: QkvLayout::Apart([
            "attn.attention.q_proj",
            "attn.attention.k_proj",
            "attn.attention.v_proj",
        ]),
        o_proj: "attn.attention.out_proj",
        mlp: MlpLayout::Plain(["mlp.c_fc", "mlp.c_proj"]),
        norms: LayerNorms { mlp: Some("ln_2"), ..Self::GPTJ.norms },
        residual: Residual::Sequential,
        ..Self::GPTJ
    };

    /// That of OPT.
    pub const OPT: Self = Self {
        embed_tokens: "decoder.embed_tokens",
        layers: "decoder.layers",
        norm: Some("decoder.final_layer_norm"),
        norm_kind: NormKind::Layer,
        o_proj: "self_attn.out_proj",
        mlp: MlpLayout::Plain(["fc1", "fc2"]),
        norms: LayerNorms {
            attention: Some("self_attn_layer_norm"),
            attention_output: None,
            mlp: Some("final_layer_norm"),
            mlp_output: None,
        },
        ..Self::LLAMA
    };
}

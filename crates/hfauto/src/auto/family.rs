//! [`Family`], the type of a row in the table of families. Not here: the rows (`families`).

use super::heads::{FamilyHead, LoadBackbone};
use crate::auto_class::AutoClass;
use crate::error::Result;
use crate::models::{Dimensions, Fields};

/// A `model_type` and its implementation of each Auto class.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Other names of the `model_type`, in remote code. They are prefixes of tensor names, too.
    pub other_model_types: &'static [&'static str],
    /// How `config.json` of remote code names the family: the `model_type` of another one, with a value of a setting that tells
    /// them apart.
    pub remote_config: Option<RemoteConfig>,
    /// The key of `config.json` that holds the settings of the text model, if they are not at top level.
    pub text_config: Option<&'static str>,
    /// The module of remote code in `modules.json` that computes what Transformer does.
    pub remote_module: Option<&'static str>,
    /// The prefix of the names in `architectures`.
    pub architecture: &'static str,
    /// The prefix of tensor names in a checkpoint that was saved with a head.
    pub base_model_prefix: &'static str,
    /// Common setting names that the family spells differently (`attribute_map` of transformers).
    pub attribute_map: &'static [(&'static str, &'static str)],
    /// Whether dtype `int8` is allowed.
    pub int8: bool,
    /// Whether a head over the vocabulary shares the word embeddings, by config.json and the family's default.
    pub tie_word_embeddings: fn(&Fields<'_>) -> Result<bool>,
    /// The default tokenizer class, if no file names one; `None` for a family that reads only images.
    pub tokenizer_class: Option<&'static str>,
    /// Whether that class is used even if a file names another one, as transformers 5 does for families whose
    /// checkpoints often name a wrong one.
    pub tokenizer_class_is_fixed: bool,
    /// Whether texts are padded to the model's length, with padding that is attended to (SigLIP).
    pub pads_texts: bool,
    /// The default image processor class, if no file names one.
    pub image_processor_type: Option<&'static str>,
    /// The default special tokens of generation, if neither generation_config.json nor config.json has them.
    pub special_token_ids: &'static [(&'static str, u32)],
    /// Whether `AutoModelForT5` accepts the family.
    pub auto_model_for_t5: bool,
    /// Reads the configuration without weights.
    pub dimensions: fn(&Fields<'_>) -> Result<Dimensions>,
    /// Column `AutoModel`: loads the architecture without a head.
    pub auto_model: LoadBackbone,
    /// The other columns that the family has.
    pub heads: &'static [FamilyHead],
    /// Prefixes of tensor names in checkpoints that no architecture here loads, or that only another
    /// architecture of the family loads; one that starts with a dot may be anywhere in the name. Tensors of `heads` are
    /// recognized by their layers.
    pub keys_to_ignore_on_load_unexpected: &'static [&'static str],
}

/// A `config.json` of remote code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteConfig {
    /// Its `model_type`, which is that of another family.
    pub model_type: &'static str,
    /// A setting and its value, which that family does not have.
    pub setting: (&'static str, &'static str),
}

impl Family {
    /// The default id of a special token.
    pub(super) fn special_token_id(&self, key: &str) -> Option<u32> {
        self.special_token_ids.iter().find(|(name, _)| *name == key).map(|(_, id)| *id)
    }

    /// The prefixes of tensor names in checkpoints with a head.
    pub(super) fn base_model_prefixes(&self) -> impl Iterator<Item = &'static str> + '_ {
        let of_heads = self.heads.iter().filter_map(|head| head.base_model_prefix);
        let others = self.other_model_types.iter().copied();
        std::iter::once(self.base_model_prefix).chain(others).chain(of_heads)
    }

    /// The names of the family's Auto classes, for messages.
    pub(super) fn class_names(&self) -> String {
        self.classes().map(AutoClass::name).collect::<Vec<_>>().join(", ")
    }

    /// Whether the family has `class`.
    pub fn has(&self, class: AutoClass) -> bool {
        self.classes().any(|own| own == class)
    }

    /// The Auto classes that the family has.
    pub fn classes(&self) -> impl Iterator<Item = AutoClass> + '_ {
        let heads = self.heads.iter().filter(|head| head.architecture.is_none());
        std::iter::once(AutoClass::Model).chain(heads.map(|head| head.class))
    }

    /// Whether the tensor `name` belongs to a head of the family: it has the first path component of a head's
    /// layer.
    pub(super) fn is_of_head(&self, name: &str) -> bool {
        let module = first_part(name);
        self.heads
            .iter()
            .flat_map(|head| head.layout.names())
            .any(|layer| first_part(layer) == module)
    }

    /// Whether the tensor `name` may be in a checkpoint without being loaded.
    pub(super) fn leaves_aside(&self, name: &str) -> bool {
        let unexpected = self.keys_to_ignore_on_load_unexpected;
        let matches =
            |part: &&str| name.starts_with(*part) || part.starts_with('.') && name.contains(*part);
        self.is_of_head(name) || unexpected.iter().any(matches)
    }
}

fn first_part(path: &str) -> &str {
    path.split_once('.').map_or(path, |(first, _)| first)
}

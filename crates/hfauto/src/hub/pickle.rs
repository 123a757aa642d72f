//! The values of a pickle in a PyTorch checkpoint, and the allow-list of names that it may use. Not here: the reader of
//! its bytes ([`super::unpickler`]), and the enclosing files ([`super::torch`]).
//!
//! All values live in one arena and refer to each other by index, as in pickles. A value memoized early and filled
//! later stays one value, and deep nesting causes no recursion.

use std::collections::BTreeMap;

use super::layout::Element;
use crate::limits;

/// The index of a value in the arena.
pub(super) type Id = usize;

/// The value types that checkpoints use.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, as little-endian two's complement.
    Long(Vec<u8>),
    /// A number or byte string that no tensor depends on.
    Opaque,
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(StorageRef),
    Tensor(TensorRef),
}

impl Value {
    /// The heap memory of the value, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Long(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
            Self::Tuple(ids) | Self::List(ids) => size_of_val(ids.as_slice()),
            Self::Dict(items) => size_of_val(items.as_slice()),
            Self::Storage(storage) => storage.key.len(),
            Self::Tensor(tensor) => {
                tensor.storage.key.len() + 8 * (tensor.shape.len() + tensor.strides.len())
            }
            Self::None | Self::Bool(_) | Self::Int(_) | Self::Opaque | Self::Global(_) => 0,
        }
    }
}

/// A name that a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    /// `_rebuild_tensor(_v2)(storage, offset, size, stride, …)`
    RebuildTensor,
    /// `_rebuild_parameter(_with_state)(tensor, …)`
    RebuildParameter,
    /// `_rebuild_from_type_v2(function, type, args, state)`
    RebuildFromType,
    Size,
    Storage(Element),
    /// A type or dtype that checkpoints mention but that is never called.
    Mentioned,
}

impl Global {
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        let element = |storage: &str| {
            Some(match storage {
                "DoubleStorage" => Element::F64,
                "FloatStorage" => Element::F32,
                "HalfStorage" => Element::F16,
                "BFloat16Storage" => Element::BF16,
                "LongStorage" => Element::I64,
                "IntStorage" => Element::I32,
                "ShortStorage" => Element::I16,
                "CharStorage" => Element::I8,
                "ByteStorage" => Element::U8,
                "BoolStorage" => Element::Bool,
                _ => return None,
            })
        };
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("torch", "Size") => Self::Size,
            (
                "torch",
                "Tensor" | "float64" | "float32" | "float16" | "bfloat16" | "int64" | "int32"
                | "int16" | "int8" | "uint8" | "bool",
            )
            | ("torch.nn.parameter", "Parameter" | "Buffer") => Self::Mentioned,
            ("torch" | "torch.cuda", storage) => Self::Storage(element(storage)?),
            _ => return None,
        })
    }
}

/// The storage of tensors' elements; its place depends on the enclosing file format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StorageRef {
    pub(super) element: Element,
    pub(super) key: String,
    /// Elements in the whole storage.
    pub(super) len: usize,
    /// The first element of this view, in file formats with views of storages.
    pub(super) start: usize,
}

/// A view of a storage.
#[derive(Clone, Debug)]
pub(super) struct TensorRef {
    pub(super) storage: StorageRef,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// The values of one pickle.
#[derive(Debug, Default)]
pub(super) struct Pickle {
    pub(super) values: Vec<Value>,
    /// Every storage that the pickle names, by key.
    pub(super) storages: BTreeMap<String, StorageRef>,
}

impl Pickle {
    pub(super) fn get(&self, id: Id) -> &Value {
        self.values.get(id).unwrap_or(&Value::None)
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn size(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    pub(super) fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        match self.get(id) {
            Value::Tuple(ids) | Value::List(ids) if ids.len() <= limits::TENSOR_RANK => {
                ids.iter().map(|id| self.size(*id)).collect()
            }
            _ => None,
        }
    }

    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(ids) => Some(ids),
            _ => None,
        }
    }

    pub(super) fn storage(&self, id: Id) -> Option<StorageRef> {
        match self.get(id) {
            Value::Storage(storage) => Some(storage.clone()),
            _ => None,
        }
    }
}

//! Converts the tensors of one batch to Arrow arrays, and gives the types of those arrays.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, FixedSizeListArray, Float16Array, Float32Array, Int8Array, ListArray,
    StructArray, UInt8Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use candle_core::Tensor;
use half::f16;

use super::{ModelOutputName, Precision};
use crate::error::{Error, ErrorKind, Result};
use crate::models::{Dimensions, ModelOutput};
use crate::nn::{Lengths, not_finite, to_host};

/// List items are never null; a null row is a null list.
fn item(data_type: DataType) -> FieldRef {
    Arc::new(Field::new_list_field(data_type, false))
}

fn vector_type(values: DataType, dimensions: usize) -> DataType {
    DataType::FixedSizeList(item(values), dimensions as i32)
}

fn list_type(items: DataType) -> DataType {
    DataType::List(item(items))
}

/// The type of an embedding column.
pub(super) fn embedding_type(dimensions: usize, precision: Precision) -> DataType {
    match precision {
        Precision::F32 => vector_type(DataType::Float32, dimensions),
        Precision::F16 => vector_type(DataType::Float16, dimensions),
        Precision::Int8 => vector_type(DataType::Int8, dimensions),
        Precision::Uint8 => vector_type(DataType::UInt8, dimensions),
        Precision::Binary => vector_type(DataType::Int8, dimensions.div_ceil(8)),
        Precision::Ubinary => vector_type(DataType::UInt8, dimensions.div_ceil(8)),
    }
}

/// The type of one named output.
fn output_type(name: ModelOutputName, model: &Dimensions) -> DataType {
    let token = vector_type(DataType::Float32, model.hidden_size);
    match name {
        ModelOutputName::PoolerOutput => {
            // Of a model that also reads images, the vector in the space of both.
            let size = model.image.map_or(model.hidden_size, |image| image.pooled_size);
            vector_type(DataType::Float32, size)
        }
        // The task's definition has no logits.
        ModelOutputName::Logits => token,
        ModelOutputName::LastHiddenState => list_type(token),
        ModelOutputName::HiddenStates => list_type(list_type(token)),
        ModelOutputName::Attentions => {
            list_type(list_type(list_type(list_type(DataType::Float32))))
        }
    }
}

/// The type of the column of named outputs: a single output directly, several as a struct.
pub(super) fn outputs_type(names: &[ModelOutputName], model: &Dimensions) -> DataType {
    match names {
        [name] => output_type(*name, model),
        names => DataType::Struct(output_fields(names, model)),
    }
}

fn output_fields(names: &[ModelOutputName], model: &Dimensions) -> Fields {
    // Nullable although no output is null: readers look at the fields of a null struct.
    names.iter().map(|&name| Field::new(name.name(), output_type(name, model), true)).collect()
}

/// Bytes of one row of named outputs.
pub(super) fn outputs_bytes(names: &[ModelOutputName], model: &Dimensions, tokens: usize) -> usize {
    let token = model.hidden_size * size_of::<f32>();
    names
        .iter()
        .map(|name| match name {
            ModelOutputName::PoolerOutput | ModelOutputName::Logits => token,
            ModelOutputName::LastHiddenState => tokens * token,
            ModelOutputName::HiddenStates => (model.num_hidden_layers + 1) * tokens * token,
            ModelOutputName::Attentions => {
                let heads = model.num_hidden_layers * model.num_attention_heads;
                heads * tokens * tokens * size_of::<f32>()
            }
        })
        .sum()
}

/// One vector per row of `(rows, dimensions)`, in the stored precision. `Int8` and `Uint8` stay f32: their ranges are
/// known only when the window is complete ([`Int8Ranges`]).
pub(super) fn embeddings(values: &Tensor, precision: Precision) -> Result<ArrayRef> {
    let (_, dimensions) = values.dims2().map_err(internal)?;
    numbers(floats(values)?, dimensions, precision, None)
}

/// As [`embeddings`], of numbers. Null rows have numbers, too.
pub(super) fn numbers(
    values: Vec<f32>,
    dimensions: usize,
    precision: Precision,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let (values, width): (ArrayRef, usize) = match precision {
        Precision::F32 | Precision::Int8 | Precision::Uint8 => {
            (Arc::new(Float32Array::from(values)), dimensions)
        }
        Precision::F16 => {
            let values = values.into_iter().map(f16::from_f32);
            (Arc::new(Float16Array::from_iter_values(values)), dimensions)
        }
        Precision::Binary => {
            // numpy's - 128, as int8.
            let bytes = packed(&values, dimensions).map(|bits| (i16::from(bits) - 128) as i8);
            (Arc::new(Int8Array::from_iter_values(bytes)), dimensions.div_ceil(8))
        }
        Precision::Ubinary => {
            let bytes = packed(&values, dimensions);
            (Arc::new(UInt8Array::from_iter_values(bytes)), dimensions.div_ceil(8))
        }
    };
    let field = item(values.data_type().clone());
    let array = FixedSizeListArray::try_new(field, width as i32, values, nulls);
    Ok(Arc::new(array.map_err(internal)?))
}

/// A list of vectors per row; `rows` has the vectors of each, one after the other, and `width` is that of a vector.
pub(super) fn vector_lists<'a>(
    rows: impl Iterator<Item = &'a [f32]> + Clone,
    width: usize,
    precision: Precision,
) -> Result<ArrayRef> {
    let offsets = OffsetBuffer::from_lengths(rows.clone().map(|row| row.len() / width.max(1)));
    let values = rows.flatten().copied().collect();
    list(numbers(values, width, precision, None)?, offsets)
}

/// `numpy.packbits(values > 0, axis=-1)`: the first dimension is the highest bit; zeros pad the last byte of a row.
fn packed(values: &[f32], dimensions: usize) -> impl Iterator<Item = u8> + '_ {
    values.chunks(dimensions.max(1)).flat_map(|row| {
        row.chunks(8).map(|eight| {
            let bits = eight.iter().fold(0u8, |byte, &x| byte << 1 | u8::from(x > 0.0));
            bits << (8 - eight.len())
        })
    })
}

/// One vector per token; each row is a list.
pub(super) fn token_vectors(
    values: &Tensor,
    lengths: &Lengths,
    precision: Precision,
) -> Result<ArrayRef> {
    let offsets = OffsetBuffer::from_lengths(lengths.ranges().map(|range| range.len()));
    list(embeddings(values, precision)?, offsets)
}

/// The column of named outputs of one batch.
pub(super) fn outputs(
    names: &[ModelOutputName],
    model: &Dimensions,
    output: &ModelOutput,
) -> Result<ArrayRef> {
    let columns = names.iter().map(|&name| one_output(name, output)).collect::<Result<Vec<_>>>()?;
    match <[ArrayRef; 1]>::try_from(columns) {
        Ok([column]) => Ok(column),
        Err(columns) => {
            let array = StructArray::try_new(output_fields(names, model), columns, None);
            Ok(Arc::new(array.map_err(internal)?))
        }
    }
}

fn one_output(name: ModelOutputName, output: &ModelOutput) -> Result<ArrayRef> {
    let missing =
        || Error::new(ErrorKind::Internal, format!("the model has no output `{}`", name.name()));
    let last = &output.last_hidden_state;
    match name {
        ModelOutputName::LastHiddenState => {
            token_vectors(&last.values, &last.lengths, Precision::F32)
        }
        ModelOutputName::PoolerOutput => {
            embeddings(output.pooler_output.as_ref().ok_or_else(missing)?, Precision::F32)
        }
        ModelOutputName::HiddenStates => {
            let states = output.hidden_states.as_ref().ok_or_else(missing)?;
            hidden_states(states.iter().map(|state| &state.values), &last.lengths)
        }
        ModelOutputName::Logits => Err(missing()),
        ModelOutputName::Attentions => {
            attentions(output.attentions.as_ref().ok_or_else(missing)?, &last.lengths)
        }
    }
}

/// For each row and layer, one vector per token.
fn hidden_states<'a>(
    layers: impl Iterator<Item = &'a Tensor>,
    lengths: &Lengths,
) -> Result<ArrayRef> {
    let mut hidden_size = None;
    let layers = layers
        .map(|layer| {
            let size = layer.dim(1).map_err(internal)?;
            let first = *hidden_size.get_or_insert(size);
            if size != first {
                let text = format!(
                    "`hidden_states` of this model have different sizes: {first} features, and {size} after the last layer"
                );
                return Err(Error::new(ErrorKind::Unsupported, text)
                    .hint("`last_hidden_state` is one size: set `outputs: [last_hidden_state]`"));
            }
            floats(layer)
        })
        .collect::<Result<Vec<_>>>()?;
    let hidden_size = hidden_size.unwrap_or(0);
    let mut values = Vec::with_capacity(layers.len() * lengths.total_tokens() * hidden_size);
    for range in lengths.ranges() {
        for layer in &layers {
            values.extend_from_slice(&layer[range.start * hidden_size..range.end * hidden_size]);
        }
    }
    let tokens = vectors(Arc::new(Float32Array::from(values)), hidden_size)?;
    let per_layer = lengths.ranges().flat_map(|range| vec![range.len(); layers.len()]);
    let layer_lists = list(tokens, OffsetBuffer::from_lengths(per_layer))?;
    let per_row = vec![layers.len(); lengths.rows()];
    list(layer_lists, OffsetBuffer::from_lengths(per_row))
}

/// For each row, layer, head and token, the weights over tokens. `layers` holds, per layer and row,
/// `(heads, seq_len, seq_len)`.
fn attentions(layers: &[Vec<Tensor>], lengths: &Lengths) -> Result<ArrayRef> {
    let mut values = Vec::new();
    let (mut tokens, mut heads, mut layer_counts, mut rows) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, range) in lengths.ranges().enumerate() {
        for layer in layers {
            let weights = &layer[row];
            let num_heads = weights.dim(0).map_err(internal)?;
            values.extend(floats(weights)?);
            tokens.extend(vec![range.len(); num_heads * range.len()]);
            heads.extend(vec![range.len(); num_heads]);
            layer_counts.push(num_heads);
        }
        rows.push(layers.len());
    }
    let mut array: ArrayRef = Arc::new(Float32Array::from(values));
    for lengths in [tokens, heads, layer_counts, rows] {
        array = list(array, OffsetBuffer::from_lengths(lengths))?;
    }
    Ok(array)
}

/// Per-dimension ranges of `precision: int8` and `uint8`, taken from the first sort window.
///
/// # Source
/// `sentence_transformers.util.quantize_embeddings` with `calibration_embeddings`, at v6.2.
#[derive(Clone, Debug)]
pub(super) struct Int8Ranges {
    starts: Vec<f32>,
    steps: Vec<f32>,
}

impl Int8Ranges {
    /// The ranges of f32 embeddings; `None` if there are no embeddings.
    pub(super) fn calibrate(batches: &[ArrayRef]) -> Result<Option<Self>> {
        let (mut lowest, mut highest): (Vec<f32>, Vec<f32>) = (Vec::new(), Vec::new());
        for batch in batches {
            let (values, dimensions) = embedding_values(batch)?;
            lowest.resize(dimensions, f32::INFINITY);
            highest.resize(dimensions, f32::NEG_INFINITY);
            for vector in values.chunks_exact(dimensions.max(1)) {
                for ((lowest, highest), &x) in lowest.iter_mut().zip(&mut highest).zip(vector) {
                    *lowest = lowest.min(x);
                    *highest = highest.max(x);
                }
            }
        }
        let steps = lowest.iter().zip(&highest).map(|(low, high)| (high - low) / 255.0).collect();
        Ok((!lowest.is_empty()).then_some(Self { starts: lowest, steps }))
    }

    /// Quantizes f32 embeddings to bytes, signed or unsigned. Clips values outside the ranges.
    pub(super) fn quantize(&self, batch: &ArrayRef, signed: bool) -> Result<ArrayRef> {
        let (values, dimensions) = embedding_values(batch)?;
        let buckets = values.chunks_exact(dimensions.max(1)).flat_map(|vector| {
            vector.iter().zip(&self.starts).zip(&self.steps).map(|((x, start), step)| {
                // A constant dimension has a scale of 1, as in sentence-transformers; `as` saturates.
                let step = if *step == 0.0 { 1.0 } else { *step };
                ((x - start) / step).floor() as u8
            })
        });
        if signed {
            let bytes = buckets.map(|bucket| (i16::from(bucket) - 128) as i8);
            return vectors(Arc::new(Int8Array::from_iter_values(bytes)), dimensions);
        }
        vectors(Arc::new(UInt8Array::from_iter_values(buckets)), dimensions)
    }
}

fn embedding_values(batch: &ArrayRef) -> Result<(&[f32], usize)> {
    let list = batch.as_any().downcast_ref::<FixedSizeListArray>();
    let values = list.and_then(|list| list.values().as_any().downcast_ref::<Float32Array>());
    match (list, values) {
        (Some(list), Some(values)) => Ok((values.values(), list.value_length() as usize)),
        _ => Err(Error::new(ErrorKind::Internal, "embeddings are not vectors of f32")),
    }
}

fn vectors(values: ArrayRef, dimensions: usize) -> Result<ArrayRef> {
    let field = item(values.data_type().clone());
    let array = FixedSizeListArray::try_new(field, dimensions as i32, values, None);
    Ok(Arc::new(array.map_err(internal)?))
}

fn list(values: ArrayRef, offsets: OffsetBuffer<i32>) -> Result<ArrayRef> {
    let field = item(values.data_type().clone());
    Ok(Arc::new(ListArray::try_new(field, offsets, values, None).map_err(internal)?))
}

/// The numbers of a tensor. Fails on NaN and infinity.
fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    let values = to_host(tensor).map_err(internal)?;
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(not_finite(*value).into());
    }
    Ok(values)
}

/// The error for a tensor or array of an unexpected shape.
pub(super) fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Internal, "cannot turn model outputs into a column").source(error)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float16Type, Float32Type, Int8Type, UInt8Type};
    use candle_core::Device;

    use super::*;

    fn tensor(rows: &[[f32; 8]]) -> Tensor {
        Tensor::from_vec(rows.concat(), (rows.len(), 8), &Device::Cpu).unwrap()
    }

    #[test]
    fn binary_packs_bits_as_numpy_does() {
        let values = tensor(&[[1., -1., 1., 0., 0., 0., 0., 0.2], [-1.; 8]]);
        let array = embeddings(&values, Precision::Binary).unwrap();
        assert_eq!(array.data_type(), &embedding_type(8, Precision::Binary));
        // numpy: packbits([1,0,1,0,0,0,0,1]) = 161, - 128 = 33; all zeros: -128.
        let bytes =
            array.as_fixed_size_list().values().as_primitive::<Int8Type>().values().to_vec();
        assert_eq!(bytes, [33, -128]);
        let unsigned = embeddings(&values, Precision::Ubinary).unwrap();
        assert_eq!(unsigned.data_type(), &embedding_type(8, Precision::Ubinary));
        let bytes = unsigned.as_fixed_size_list().values().as_primitive::<UInt8Type>().values();
        assert_eq!(bytes.to_vec(), [161, 0]);
        // Ten dimensions: the second byte has two bits of the row and six zeros.
        let ten = [1f32, -1., 1., 1., -1., -1., -1., -1., -1., 1.];
        assert_eq!(packed(&[ten, ten].concat(), 10).collect::<Vec<_>>(), [176, 64, 176, 64]);
    }

    #[test]
    fn int8_uses_ranges_of_the_first_window_and_clips() {
        let first = embeddings(&tensor(&[[0.; 8], [255.; 8]]), Precision::Int8).unwrap();
        let ranges = Int8Ranges::calibrate(&[first]).unwrap().unwrap();
        let row = [0., 1., 2.6, 127., 128., 255., 300., -7.];
        let batch = embeddings(&tensor(&[row]), Precision::Int8).unwrap();
        let quantized = ranges.quantize(&batch, true).unwrap();
        assert_eq!(quantized.data_type(), &embedding_type(8, Precision::Int8));
        let bytes = quantized.as_fixed_size_list().values().as_primitive::<Int8Type>().values();
        // numpy: floor, clipped to 0 … 255, then - 128.
        assert_eq!(bytes.to_vec(), [-128, -127, -126, -1, 0, 127, 127, -128]);
        let quantized = ranges.quantize(&batch, false).unwrap();
        assert_eq!(quantized.data_type(), &embedding_type(8, Precision::Uint8));
        let bytes = quantized.as_fixed_size_list().values().as_primitive::<UInt8Type>().values();
        assert_eq!(bytes.to_vec(), [0, 1, 2, 127, 128, 255, 255, 0]);
    }

    #[test]
    fn f16_rounds_to_nearest() {
        let array = embeddings(&tensor(&[[0.1; 8]]), Precision::F16).unwrap();
        let value = array.as_fixed_size_list().values().as_primitive::<Float16Type>().value(0);
        assert_eq!(value, f16::from_f32(0.1));
    }

    #[test]
    fn hidden_states_and_attentions_nest_row_first() {
        let lengths = Lengths::new([2, 0, 1]);
        // Three tokens of two features; the second layer is ten times the first.
        let first = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu).unwrap();
        let second = (&first * 10.0).unwrap();
        let states = hidden_states([&first, &second].into_iter(), &lengths).unwrap();
        let row = states.as_list::<i32>().value(0);
        let layer = row.as_list::<i32>().value(1);
        let token = layer.as_fixed_size_list().value(1);
        assert_eq!(token.as_primitive::<Float32Type>().values().to_vec(), [30.0, 40.0]);
        let empty = states.as_list::<i32>().value(1);
        assert_eq!(empty.as_list::<i32>().value(0).len(), 0);

        let wider = Tensor::zeros((3, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let error = hidden_states([&first, &wider].into_iter(), &lengths).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);

        let squares = |n: usize| {
            Tensor::arange(0f32, (2 * n * n) as f32, &Device::Cpu)
                .and_then(|t| t.reshape((2, n, n)))
                .unwrap()
        };
        let empty = Tensor::zeros((2, 0, 0), candle_core::DType::F32, &Device::Cpu).unwrap();
        let layer = vec![squares(2), empty, squares(1)];
        let array = attentions(&[layer], &lengths).unwrap();
        let heads = array.as_list::<i32>().value(0).as_list::<i32>().value(0);
        let second_head = heads.as_list::<i32>().value(1);
        let second_token = second_head.as_list::<i32>().value(1);
        assert_eq!(second_token.as_primitive::<Float32Type>().values().to_vec(), [6.0, 7.0]);
    }
}

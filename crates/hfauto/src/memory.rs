//! The available memory, and how many tokens of activations fit in it.
//!
//! Activations are an estimate from the configuration. Not here: the size of weights
//! ([`LoadReport`](crate::auto::LoadReport)).

use std::fs;
use std::ops::RangeInclusive;

use candle_core::Device;

use crate::models::Dimensions;

/// The peak number of vectors per token in a layer: the states before and after attention, the result,
/// and four in the intermediate state of the feed-forward network.
const VECTORS_PER_TOKEN: usize = 7;

/// Estimates the peak size of one worker's activations for a batch of `tokens`.
pub fn activation_bytes(dimensions: &Dimensions, tokens: usize) -> usize {
    let vectors = tokens * VECTORS_PER_TOKEN * vector_size(dimensions);
    // The attention scores of one head, for the longest row that fits in the batch.
    let row = dimensions.max_position_embeddings.unwrap_or(tokens).min(tokens);
    (vectors + row * row) * size_of::<f32>()
}

/// The numbers of a token in the widest place of a model.
fn vector_size(dimensions: &Dimensions) -> usize {
    let of_image = dimensions.image.map_or(0, |image| image.peak_hidden_size);
    dimensions.hidden_size.max(of_image)
}

/// The memory that this process may still allocate: the system's available memory, capped by the limits of its control
/// group and its address space. `None` if unknown.
pub fn available_bytes() -> Option<usize> {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kibibytes.checked_mul(1024)
    });
    let number = |file: &str| -> Option<usize> {
        fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse().ok()
    };
    let group = number("memory.max")
        .map(|max| max.saturating_sub(number("memory.current").unwrap_or_default()));
    [system, group, unused_address_space()].into_iter().flatten().min()
}

/// The unused address space under `ulimit -v`; `None` without a limit.
fn unused_address_space() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let most: usize = line.split_whitespace().next()?.parse().ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(most.saturating_sub(kibibytes.saturating_mul(1024)))
}

/// Bytes still available for tensors on `device`.
pub fn free_bytes(device: &Device) -> Option<usize> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return crate::nn::cuda::memory(device).ok().map(|(free, _)| free);
    }
    let _ = device;
    available_bytes()
}

/// A default for `max_batch_tokens` on `devices`.
///
/// On CPUs, a batch fits in the caches. On GPUs, a batch is large enough to saturate the GPU, and its activations take
/// at most a quarter of the free memory, which leaves room for the batches in flight. With `generates`, it bounds the
/// tokens of all rows decoded together. More rows amortize each step's read of the weights; on CPUs, their KV caches
/// take at most an eighth of the free memory.
pub fn batch_tokens(dimensions: Option<&Dimensions>, devices: &[Device], generates: bool) -> usize {
    let free = || devices.iter().filter_map(free_bytes).min();
    let on_cpu = devices.iter().all(Device::is_cpu);
    tokens_within(dimensions, on_cpu, generates, free)
}

fn tokens_within(
    dimensions: Option<&Dimensions>,
    on_cpu: bool,
    generates: bool,
    free: impl FnOnce() -> Option<usize>,
) -> usize {
    const ON_CPU: usize = 1024;
    const GENERATING_ON_CPU: RangeInclusive<usize> = ON_CPU..=4096;
    const ON_GPU: RangeInclusive<usize> = 1024..=32_768;
    let (token_bytes, share, range) = match (on_cpu, generates) {
        (true, false) => return ON_CPU,
        (true, true) => {
            let kept = |d: &Dimensions| 2 * d.num_hidden_layers * d.kv_width() * size_of::<f32>();
            (dimensions.map_or(1, kept), 8, GENERATING_ON_CPU)
        }
        (false, _) => {
            let activations =
                |d: &Dimensions| VECTORS_PER_TOKEN * vector_size(d) * size_of::<f32>();
            (dimensions.map_or(1, activations), 4, ON_GPU)
        }
    };
    let room = free().unwrap_or(0) / share / token_bytes.max(1);
    room.clamp(*range.start(), *range.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::PositionIds;

    #[test]
    fn batch_tokens_fit_the_device_and_its_memory() {
        let dimensions = Dimensions {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_key_value_heads: 12,
            head_dim: 64,
            vocab_size: 100,
            type_vocab_size: None,
            position_ids: PositionIds::FromZero,
            max_position_embeddings: None,
            extrapolates: false,
            image: None,
        };
        let tokens = |on_cpu, generates, mib: Option<usize>| {
            tokens_within(Some(&dimensions), on_cpu, generates, || mib.map(|mib| mib << 20))
        };
        assert_eq!(tokens(true, false, Some(1 << 20)), 1024);
        // The keys and values of a token take 72 KiB here: an eighth of 1,152 MiB holds 2,048 tokens.
        assert_eq!(tokens(true, true, Some(1152)), 2048);
        assert_eq!(tokens(true, true, Some(1 << 20)), 4096);
        assert_eq!(tokens(true, true, Some(1)), 1024);
        assert_eq!(tokens(true, true, None), 1024);
        // A pass has seven vectors of 3 KiB per token: a quarter of 840 MiB holds 10,240 tokens.
        assert_eq!(tokens(false, false, Some(840)), 10_240);
        assert_eq!(tokens(false, true, Some(1 << 20)), 32_768);
        assert_eq!(batch_tokens(Some(&dimensions), &[Device::Cpu, Device::Cpu], false), 1024);
    }

    #[test]
    fn this_system_reports_available_memory() {
        if cfg!(target_os = "linux") {
            assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}

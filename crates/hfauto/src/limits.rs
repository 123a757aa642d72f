//! Every limit on a model's files, texts, images and hub responses. Each says what it bounds and why it has this value,
//! and names the key that changes it, if there is one. SECURITY.md lists them for users.
//!
//! Every limit is above what occurs in practice: it stops only damaged or hostile input.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Pixels of an image: the size at which Pillow raises an error, twice `Image.MAX_IMAGE_PIXELS`.
/// Key: `images.max_pixels`.
pub(crate) const IMAGE_PIXELS: u64 = 178_956_970;

/// Width or height of an image, in pixels: resizing stores weights for each pixel of a side. Panoramas have a tenth of
/// this.
pub(crate) const IMAGE_SIDE: u64 = 1 << 20;

/// Pixels of an image above which the process decodes it alone, to keep the memory of parallel workers from adding up.
/// Cameras produce smaller images.
pub(crate) const LARGE_IMAGE_PIXELS: u64 = 64 << 20;

/// Passes of a JPEG file over all of its coefficients: one for each of their bits. Each scan costs time for every block
/// of the image, yet may take only a few bytes.
pub(crate) const JPEG_PASSES: u64 = 14;

/// Bytes of a PNG file's decompressed text that are searched for EXIF.
pub(crate) const PNG_TEXT_BYTES: u64 = 16 << 20;

/// Memory of the PNG decoder, in bytes, beyond the pixels and one row: colour profiles, texts.
pub(crate) const PNG_DECODER_BYTES: u64 = 64 << 20;
// --- chat templates

/// Bytes of a chat template. The longest in use have about 30 KB. No key.
pub(crate) const CHAT_TEMPLATE_BYTES: usize = 1 << 20;
/// Tokens of a chat template, which also bounds the depth of its syntax tree. No key.
pub(crate) const CHAT_TEMPLATE_TOKENS: usize = 1 << 16;
/// Tokens of one tag (`{{ … }}`, `{% … %}`) of a chat template. No key.
pub(crate) const CHAT_EXPRESSION_TOKENS: usize = 1 << 12;
/// The stack size for parsing a chat template: 4 KB per token, reserved but rarely touched.
pub(crate) const CHAT_TEMPLATE_STACK_BYTES: usize = 4096 * CHAT_TEMPLATE_TOKENS;
/// Instructions of one rendering, in addition to [`CHAT_STEPS_PER_BYTE`]. A message takes a few hundred. No key.
pub(crate) const CHAT_STEPS: u64 = 1_000_000;
/// Instructions per byte of a conversation and its tools. No key.
pub(crate) const CHAT_STEPS_PER_BYTE: u64 = 8;
/// Bytes that one rendering reads and writes, in addition to [`CHAT_BYTES_PER_BYTE`]. No key.
pub(crate) const CHAT_BYTES: usize = 64 << 20;
/// Bytes read and written per byte of a conversation and its tools. No key.
pub(crate) const CHAT_BYTES_PER_BYTE: usize = 256;
/// Nesting depth of lists and maps in a chat template; JSON is parsed to a depth of 128. No key.
pub(crate) const CHAT_DEPTH: usize = 200;
/// Nested scopes while a chat template renders; a macro call counts as five. No key.
pub(crate) const CHAT_RECURSION: usize = 300;
/// Widths and counts passed to filters of a chat template (`indent`, `format`, `batch`). No key.
pub(crate) const CHAT_WIDTH: usize = 100_000;

// --- tokenizers

/// Backtracking retries of a tokenizer.json regular expression at one position of a text: onig's own limit, at which
/// the tokenizers of transformers raise an exception. No key.
pub(crate) const TOKENIZER_REGEX_RETRIES: u32 = 10_000_000;
/// Entries of a regular expression's backtracking stack. No key.
pub(crate) const TOKENIZER_REGEX_STACK: u32 = 16_000_000;
/// Time for a tokenizer's regular expressions on one text, in addition to [`TOKENIZER_REGEX_TIME_PER_BYTE`]. No key.
pub(crate) const TOKENIZER_REGEX_TIME: Duration = Duration::from_secs(1);
/// Time for a tokenizer's regular expressions per byte of a text: twenty times what they take in practice. No key.
pub(crate) const TOKENIZER_REGEX_TIME_PER_BYTE: Duration = Duration::from_micros(1);
/// The factor by which normalizers and decoders may grow a text, in addition to [`TOKENIZER_GROWTH_BYTES`]. Unicode's
/// compatibility decomposition grows a text by at most 11. No key.
pub(crate) const TOKENIZER_GROWTH: usize = 32;
/// See [`TOKENIZER_GROWTH`]. No key.
pub(crate) const TOKENIZER_GROWTH_BYTES: usize = 64 << 10;
/// The stack size for parsing a tokenizer.json: its regular expressions are parsed recursively. Reserved, rarely
/// touched.
pub(crate) const TOKENIZER_STACK_BYTES: usize = 64 << 20;
/// Steps of a normalizer, pre-tokenizer, post-processor or decoder. No key.
pub(crate) const TOKENIZER_STEPS: usize = 256;
/// Bytes of a text in such a step: a regular expression, a replacement. No key.
pub(crate) const TOKENIZER_TEXT_BYTES: usize = 64 << 10;
/// Bytes that SentencePiece's normalization rules produce for one character; U+FDFA becomes 33. No key.
pub(crate) const TOKENIZER_CHARSMAP_BYTES: usize = 128;
/// Added tokens of a tokenizer. No key.
pub(crate) const TOKENIZER_ADDED_TOKENS: usize = 200_000;
/// Special tokens of a tokenizer; each is compared with the added tokens. No key.
pub(crate) const TOKENIZER_SPECIAL_TOKENS: usize = 10_000;
/// Total bytes that a normalizer may produce for the added tokens. No key.
pub(crate) const TOKENIZER_ADDED_BYTES: usize = 1 << 30;
/// Repetitions of a text by a post-processor. No key.
pub(crate) const TOKENIZER_TEMPLATE_TEXTS: usize = 16;
/// Tokens that a post-processor adds to a text. No key.
pub(crate) const TOKENIZER_TEMPLATE_TOKENS: usize = 4096;
/// `max_input_chars_per_word` of WordPiece, whose time grows with the square of a word's length; 100 by default.
/// No key.
pub(crate) const TOKENIZER_MAX_INPUT_CHARS_PER_WORD: usize = 1000;
/// Bytes of an unknown token, and of the prefixes and suffixes of subwords. No key.
pub(crate) const TOKENIZER_TOKEN_BYTES: usize = 2048;
/// Bytes of a Unigram piece: the search compares as many bytes at each position of a text. SentencePiece makes pieces
/// of up to 16 characters by default. No key.
pub(crate) const TOKENIZER_PIECE_BYTES: usize = 256;

// --- chunks of texts

/// Bytes of a text that is divided into chunks; its offsets then fit in 32 bits, and so do all of its chunks together. Books
/// have a hundredth of this. No key.
pub(crate) const CHUNK_TEXT_BYTES: usize = 240 << 20;
/// Bytes of a part of a text that is divided at once: the time to divide grows with the square of it, and its tokens take some
/// forty times as much memory. No key.
pub(crate) const CHUNK_PART_BYTES: usize = 64 << 10;
/// The length of all chunks of a text together, as a multiple of the text. Overlaps at most double it, unless parts of the text
/// have more tokens alone. No key.
pub(crate) const CHUNK_GROWTH: usize = 8;

// --- files of a model

/// Bytes of a model's JSON file other than the tokenizer: config.json, shard indexes. No key.
pub(crate) const MODEL_JSON_BYTES: u64 = 64 << 20;
/// Bytes of a tokenizer file; the largest vocabularies take 35 MB. No key.
pub(crate) const TOKENIZER_FILE_BYTES: u64 = 512 << 20;
/// Numbers of one module of a LoRA adapter: rank 1024 for a layer of 32,768 inputs and outputs. No key.
pub(crate) const ADAPTER_NUMBERS: usize = 1 << 26;
/// Modules of a modules.json. No key.
pub(crate) const MODEL_MODULES: usize = 256;
/// Files in a shard index. No key.
pub(crate) const WEIGHT_SHARDS: usize = 10_000;
/// Bytes of a safetensors header: a hundred or more per tensor; files in use have a few thousand tensors. No key.
pub(crate) const SAFETENSORS_HEADER_BYTES: usize = 32 << 20;
/// Bytes of the metadata and the table of tensors of a GGUF file, with its tokenizer; those of 256,000 tokens take 15 MB.
/// No key.
pub(crate) const GGUF_HEADER_BYTES: usize = 256 << 20;
/// Tensors of a GGUF file, each expert's counted: a few hundred bytes of memory each. The largest models have fifty
/// thousand. No key.
pub(crate) const GGUF_TENSORS: usize = 1 << 20;
/// Dimensions of a tensor; torch has the same limit. No key.
pub(crate) const TENSOR_RANK: usize = 64;
/// Bytes of the pickles in a torch checkpoint: names and shapes, a hundred bytes per tensor. No key.
pub(crate) const PICKLE_BYTES: usize = 128 << 20;
/// Memory for the values of a pickle, in addition to [`PICKLE_MEMORY_PER_BYTE`]. No key.
pub(crate) const PICKLE_MEMORY: usize = 64 << 20;
/// Memory per byte of a pickle: an empty list is one byte and takes about 180. No key.
pub(crate) const PICKLE_MEMORY_PER_BYTE: usize = 192;
/// Memory for a pickle of any length: a hundred thousand tensors take half of it. No key.
pub(crate) const PICKLE_MEMORY_MAX: usize = 512 << 20;

// --- counts in config.json, generation_config.json and preprocessor_config.json

/// A size in config.json, such as `vocab_size` or `max_position_embeddings`: the product of two and a small number fits
/// in 64 bits. No key.
pub(crate) const MODEL_SIZE: usize = 1 << 26;
/// Layers of a model. No key.
pub(crate) const MODEL_LAYERS: usize = 4096;
/// Labels of a classifier. No key.
pub(crate) const MODEL_LABELS: usize = 1_000_000;
/// Pixels of a model's input images. No key.
pub(crate) const MODEL_IMAGE_PIXELS: usize = 1 << 24;
/// Tokens of a row for models with relative position tables (T5, MPNet), whose memory grows with the square: 4 GiB for
/// T5 with 8 heads. No key.
pub(crate) const RELATIVE_POSITIONS: usize = 1 << 13;
/// Numbers in rotary settings: beyond everything in use on both sides, and far from where f32 ends. No key.
pub(crate) const ROTARY_NUMBERS: RangeInclusive<f64> = 1e-9..=1e30;
/// Numbers of a table of rotary angles: 64 MiB, which is 131,072 positions of 64 frequencies. Later positions are computed
/// for each batch. No key.
pub(crate) const ROTARY_TABLE_NUMBERS: usize = 1 << 24;
/// Features of a head with rotary embeddings; models in use have up to 512. No key.
pub(crate) const ROTARY_HEAD_DIM: usize = 1 << 14;
/// Inputs of a layer in int8: sums of more products of up to 255 · 127 might overflow 32 bits. No key.
pub(crate) const INT8_INPUTS: usize = 1 << 16;
/// `num_beams`. No key.
pub(crate) const GENERATION_BEAMS: usize = 512;
/// `max_new_tokens`, `max_length` and the like. No key.
pub(crate) const GENERATION_TOKENS: usize = 1 << 24;
/// The same for models with unbounded positions (T5). No key.
pub(crate) const GENERATION_TOKENS_WITHOUT_POSITIONS: usize = RELATIVE_POSITIONS;
/// Entries of a list that is compared with every new token (`eos_token_id`, `stop_strings`). No key.
pub(crate) const GENERATION_LIST: usize = 4096;

// --- responses of a hub

/// Bytes of the hub's repository listing, which names all files. No key.
pub(crate) const HUB_ANSWER_BYTES: usize = 64 << 20;
/// Bytes read of a hub's error page; the rest is ignored.
pub(crate) const HUB_REFUSAL_BYTES: usize = 64 << 10;
/// Files of a dataset, or of the folder of it that is listed. No key.
pub(crate) const DATASET_FILES: usize = 1_000_000;
/// Files of a dataset whose addresses in the storage are remembered.
pub(crate) const DATASET_LOCATED: usize = 4096;
/// Bytes of all files that are sent within a commit, which is built in memory; the others go to large file storage. No key.
pub(crate) const COMMIT_BYTES: u64 = 256 << 20;
/// Timeout for response headers, and for the whole repository listing, as a multiple of `HF_HUB_DOWNLOAD_TIMEOUT` (10
/// s, the longest silence allowed).
pub(crate) const HUB_ANSWER_TIMEOUTS: u32 = 6;
/// Bytes of a file other than weights, and of weights whose size the server does not declare. No key.
pub(crate) const HUB_FILE_BYTES: u64 = 512 << 20;
/// The window in which a transfer must receive [`HUB_PACE_BYTES`], as a multiple of `HF_HUB_DOWNLOAD_TIMEOUT`. Slower
/// transfers are aborted.
pub(crate) const HUB_PACE_TIMEOUTS: u32 = 2;
/// See [`HUB_PACE_TIMEOUTS`].
pub(crate) const HUB_PACE_BYTES: u64 = 16 << 10;

//! One architecture a file: config, embeddings, layer, encoder.

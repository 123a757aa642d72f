//! AutoConfig, AutoTokenizer, AutoModel: one table from model_type to architecture.

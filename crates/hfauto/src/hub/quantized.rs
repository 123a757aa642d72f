//! Checkpoints whose weights are quantized in a form that is not implemented: `quantization_config` of `config.json` says so,
//! before any weight is downloaded. Not here: GGUF, and int8 of this library.

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};

/// Refuses a `config.json` with a `quantization_config`.
///
/// # Errors
/// `Unsupported` with the name of the method.
pub(crate) fn refuse_quantized(config: &Value) -> Result<()> {
    let inner = ["text_config", "language_config"].map(|key| config.get(key));
    let mut configs = std::iter::once(Some(config)).chain(inner).flatten();
    let settings = configs.find_map(|config| {
        config.get("quantization_config").filter(|settings| !settings.is_null())
    });
    let Some(settings) = settings else { return Ok(()) };
    let flag = |key: &str| settings.get(key).and_then(Value::as_bool).unwrap_or(false);
    let method = match settings.get("quant_method").and_then(Value::as_str) {
        Some(method) => method,
        // The first checkpoints of bitsandbytes do not name it.
        None if flag("load_in_4bit") || flag("load_in_8bit") => "bitsandbytes",
        None => "unknown",
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "the weights are quantized by `{method}` (`quantization_config` in config.json), which is not implemented"
        ),
    )
    .hint(
        "use the original checkpoint, with `dtype: int8` or `bf16` where memory counts, or a GGUF file of the model",
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_method_is_named() {
        for method in ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors", "mxfp4"] {
            let config = json!({"quantization_config": {"quant_method": method, "bits": 4}});
            let error = refuse_quantized(&config).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(&format!("`{method}`")), "{error}");
        }
        let old = json!({"quantization_config": {"load_in_8bit": true}});
        assert!(refuse_quantized(&old).unwrap_err().to_string().contains("`bitsandbytes`"));
        let inner = json!({"text_config": {"quantization_config": {"quant_method": "awq"}}});
        assert!(refuse_quantized(&inner).is_err());
        assert!(refuse_quantized(&json!({"quantization_config": null})).is_ok());
        assert!(refuse_quantized(&json!({"hidden_size": 4})).is_ok());
    }
}

//! The SQL functions `md5` and `sha224` to `sha512`, like DataFusion's feature `crypto_expressions`: MD5 as hex text,
//! the others as bytes.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use sha2::Digest as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Algorithm {
    Md5,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// The functions.
pub(super) fn functions() -> impl Iterator<Item = Arc<ScalarUDF>> {
    use Algorithm::{Md5, Sha224, Sha256, Sha384, Sha512};
    [Md5, Sha224, Sha256, Sha384, Sha512].into_iter().map(|algorithm| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Digest { algorithm, signature }))
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Digest {
    algorithm: Algorithm,
    signature: Signature,
}

impl Digest {
    fn of(&self, bytes: &[u8]) -> Vec<u8> {
        match self.algorithm {
            Algorithm::Md5 => md5::Md5::digest(bytes).to_vec(),
            Algorithm::Sha224 => sha2::Sha224::digest(bytes).to_vec(),
            Algorithm::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Algorithm::Sha384 => sha2::Sha384::digest(bytes).to_vec(),
            Algorithm::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
        }
    }

    fn column<'a>(&self, values: impl Iterator<Item = Option<&'a [u8]>>) -> ArrayRef {
        let digests = values.map(|value| value.map(|bytes| self.of(bytes)));
        if self.algorithm == Algorithm::Md5 {
            return Arc::new(
                digests.map(|digest| digest.map(|d| hex(&d))).collect::<StringArray>(),
            );
        }
        Arc::new(digests.collect::<BinaryArray>())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl ScalarUDFImpl for Digest {
    fn name(&self) -> &'static str {
        match self.algorithm {
            Algorithm::Md5 => "md5",
            Algorithm::Sha224 => "sha224",
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        match arg_types {
            [text] if text.is_string() || text.is_null() => Ok(vec![DataType::Utf8]),
            [bytes] if bytes.is_binary() => Ok(vec![DataType::Binary]),
            _ => plan_err!("`{}` takes a text or bytes", self.name()),
        }
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(if self.algorithm == Algorithm::Md5 { DataType::Utf8 } else { DataType::Binary })
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = args.args.as_slice() else {
            return internal_err!("`{}` has one argument", self.name());
        };
        let values = value.to_array(1)?;
        let column = match values.data_type() {
            DataType::Utf8 => {
                self.column(values.as_string::<i32>().iter().map(|text| text.map(str::as_bytes)))
            }
            DataType::Binary => self.column(values.as_binary::<i32>().iter()),
            other => return internal_err!("`{}` of {other}", self.name()),
        };
        Ok(match value {
            ColumnarValue::Array(_) => ColumnarValue::Array(column),
            ColumnarValue::Scalar(_) => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&column, 0)?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn digests_are_those_of_the_standards() {
        let context = crate::source::session(None).unwrap();
        for (sql, expected) in [
            ("SELECT md5('foo')", "acbd18db4cc2f85cedef654fccc4a4d8"),
            (
                "SELECT encode(sha256('foo'), 'hex')",
                "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
            ),
            (
                "SELECT encode(sha224('foo'), 'hex')",
                "0808f64e60d58979fcb676c96ec938270dea42445aeefcd3a4e6f8db",
            ),
            ("SELECT left(encode(sha512('foo'), 'hex'), 16)", "f7fbba6e0636f890"),
            ("SELECT left(encode(sha384('foo'), 'hex'), 16)", "98c11ffdfdd54067"),
            ("SELECT coalesce(md5(NULL), 'null')", "null"),
            (
                "SELECT max(md5(x)) FROM (VALUES ('foo'), (NULL)) AS t(x)",
                "acbd18db4cc2f85cedef654fccc4a4d8",
            ),
        ] {
            let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
            let found = arrow::compute::cast(batches[0].column(0), &DataType::Utf8).unwrap();
            assert_eq!(found.as_string::<i32>().value(0), expected, "{sql}");
        }
        let error = context.sql("SELECT md5(1)").await.unwrap_err();
        assert!(error.to_string().contains("`md5` takes a text or bytes"), "{error}");
    }
}

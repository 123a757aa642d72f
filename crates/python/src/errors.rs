//! The exceptions: `Error`, and a subclass for each kind of error.

use std::ffi::CString;

use hfauto_pipe::cli::error_text;
use hfauto_pipe::{Error, ErrorKind};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// The class of each kind.
static CLASSES: PyOnceLock<Vec<(ErrorKind, Py<PyType>)>> = PyOnceLock::new();

/// `NoInputError` for `no_input`.
fn class_name(kind: ErrorKind) -> String {
    let words = kind.name().split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    words.collect::<String>() + "Error"
}

/// Adds the classes to the module.
pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let base = new_class(py, "Error", "An error of hfauto-pipe.", py.get_type::<PyException>())?;
    module.add("Error", &base)?;
    let mut classes = Vec::new();
    for kind in ErrorKind::ALL {
        let doc = format!("An error of kind `{}`: exit code {}.", kind.name(), kind.exit_code());
        let class = new_class(py, &class_name(kind), &doc, base.clone())?;
        class.setattr("kind", kind.name())?;
        class.setattr("exit_code", kind.exit_code())?;
        module.add(class_name(kind), &class)?;
        classes.push((kind, class.unbind()));
    }
    // Already set when another interpreter of this process imports the module.
    let _ = CLASSES.set(py, classes);
    Ok(())
}

fn new_class<'py>(
    py: Python<'py>,
    name: &str,
    doc: &str,
    base: Bound<'py, PyType>,
) -> PyResult<Bound<'py, PyType>> {
    let name = CString::new(format!("hfauto_pipe.{name}"))?;
    let class = PyErr::new_type(py, &name, Some(&CString::new(doc)?), Some(&base), None)?;
    Ok(class.into_bound(py))
}

/// The exception for an error, with the program's text.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let classes = CLASSES.get(py).into_iter().flatten();
    let class = classes.into_iter().find(|(kind, _)| *kind == error.kind());
    let text = error_text(error);
    match class {
        Some((_, class)) => PyErr::from_type(class.bind(py).clone(), text),
        None => PyException::new_err(text),
    }
}

//! The extension module `hfauto_pipe._native`. The Python files beside it (`python/hfauto_pipe`) make the package from
//! it: functions with signatures and docstrings, progress, the command. Not here: anything that has no Python in it,
//! which `hfauto-pipe` does.
//!
//! Every call runs on a thread of its own without the GIL, while the calling thread shows progress and looks for signals
//! (`wait`). Tables come and go through the Arrow PyCapsule interface (`table`), without copies.

mod calls;
mod errors;
mod input;
mod table;
mod values;
mod wait;

use pyo3::prelude::*;

/// Memory of forward passes stays with the process between batches, as in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The parts of the package that are written in Rust.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    hfauto::secret::remember_environment();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    errors::add(module)?;
    module.add_class::<table::Table>()?;
    module.add_class::<table::Array>()?;
    module.add_function(wrap_pyfunction!(calls::main, module)?)?;
    module.add_function(wrap_pyfunction!(calls::declarations, module)?)?;
    module.add_function(wrap_pyfunction!(calls::run, module)?)?;
    module.add_function(wrap_pyfunction!(calls::sql, module)?)?;
    module.add_function(wrap_pyfunction!(calls::task, module)?)?;
    module.add_function(wrap_pyfunction!(calls::unload, module)?)
}

//! The kernels of the host, and their tests, as they are in the program.
#![allow(dead_code, unused_imports, reason = "the layers that call the kernels are not here")]

#[path = "../../crates/hfauto/src/nn"]
mod nn {
    #[path = "cpu/mod.rs"]
    mod cpu;
}

//! The kernels of the host, and their tests, as they are in the program.
#![allow(dead_code, unused_imports, reason = "the layers that call the kernels are not here")]

mod nn {
    #[path = "../../../src/nn/cpu/mod.rs"]
    mod cpu;
}

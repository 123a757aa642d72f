//! The program: parses nothing and prints nothing itself, see [`hfauto_pipe::cli`].

use std::process::ExitCode;

/// Every forward pass allocates and frees the same large buffers. glibc gives them back to the kernel
/// each time and pays for the page faults again; mimalloc keeps them. The cost is a little more resident
/// memory between batches.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(hfauto_pipe::cli::main(std::env::args_os()))
}

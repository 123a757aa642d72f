//! The program; [`hfauto_pipe::cli`] parses arguments and prints.

use std::process::ExitCode;

/// Every forward pass allocates and frees the same large buffers. glibc returns them to the kernel and takes the page
/// faults again; mimalloc keeps them, at the cost of some resident memory between batches. Its huge pages are off
/// (`no_thp`): they took 60 to 90 MiB more, and saved no time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(hfauto_pipe::cli::main(std::env::args_os()))
}

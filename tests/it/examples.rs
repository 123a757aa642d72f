//! The examples run; what they promise they assert themselves.

#[path = "../../examples/auto_model.rs"]
#[expect(dead_code, reason = "`main` takes a model from the command line; the test names its own")]
mod auto_model;

#[test]
fn auto_model() {
    auto_model::run(super::support::mini_embedder().to_str().unwrap()).unwrap();
}

//! What a process hears that has no usable runtime; apart, since a library that was loaded stays.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;

use tickserve_core::session::Library;

#[test]
fn a_library_that_cannot_be_loaded_is_a_sentence() {
    let absent = Library::load(Path::new("/nonexistent/libonnxruntime.so"))
        .unwrap_err()
        .to_string();
    assert!(
        absent.starts_with("cannot load ONNX Runtime from /nonexistent/libonnxruntime.so: "),
        "{absent}"
    );
    let other = std::env::current_exe().unwrap();
    let other = Library::load(&other).unwrap_err().to_string();
    assert!(other.starts_with("cannot load ONNX Runtime from "), "{other}");
}

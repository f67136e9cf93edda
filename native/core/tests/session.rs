//! Sessions on the real runtime: every kind of tensor, and what a broken model says.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::path::Path;

use bytes::Bytes;
use support::{data, floats, model_file, numbers, onnxruntime, spec, version_plan};
use tickserve_core::call::{Elements, Tensor};
use tickserve_core::plan::{Datatype, TensorSpec};
use tickserve_core::prepare::{PrepareError, Seats, prepare};
use tickserve_core::seat::Room;
use tickserve_core::session::{Library, Session};

fn session(name: &str, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Session {
    let library = Library::load(&onnxruntime()).unwrap();
    let model = std::fs::read(model_file(name)).unwrap();
    Session::new(library, &model, inputs, outputs).unwrap()
}

fn three(name: &str, datatype: Datatype) -> TensorSpec {
    spec(name, datatype, &[-1, 3])
}

#[test]
fn rows_come_back_bound_and_unbound() {
    let features = [three("features", Datatype::Fp32)];
    let mut session = session("echo", &features, &[three("values", Datatype::Fp32)]);
    for _ in 0..3 {
        for rows in [1, 2, 7, 1] {
            let values: Vec<f32> = (0..rows * 3).map(|value| value as f32 + 0.5).collect();
            let sent = floats(&[rows, 3], &values);
            let outputs = session.run(std::slice::from_ref(&sent)).unwrap();
            assert_eq!((outputs.len(), &outputs[0].shape), (1, &vec![rows, 3]));
            assert_eq!(data(&outputs[0]), data(&sent));
        }
    }
}

#[test]
fn an_answer_outlives_the_next_run() {
    let features = [three("features", Datatype::Fp32)];
    let mut session = session("echo", &features, &[three("values", Datatype::Fp32)]);
    let first = session.run(&[floats(&[1, 3], &[1.0, 2.0, 3.0])]).unwrap();
    session.run(&[floats(&[1, 3], &[4.0, 5.0, 6.0])]).unwrap();
    assert_eq!(data(&first[0]), data(&floats(&[1, 3], &[1.0, 2.0, 3.0])));
}

#[test]
fn elements_need_not_be_aligned() {
    let features = [three("features", Datatype::Fp32)];
    let mut session = session("echo", &features, &[three("values", Datatype::Fp32)]);
    for rows in [1_i64, 2] {
        let sent = floats(&[rows, 3], &vec![1.5; rows as usize * 3]);
        let mut shifted = vec![0_u8];
        shifted.extend_from_slice(data(&sent));
        for offset in 0..4 {
            let moved = [vec![0; offset], shifted.clone()].concat();
            let elements = Elements::Numbers(Bytes::from(moved).slice(offset + 1..));
            let outputs = session
                .run(&[Tensor {
                    elements,
                    ..sent.clone()
                }])
                .unwrap();
            assert_eq!(data(&outputs[0]), data(&sent));
        }
    }
}

#[test]
fn other_datatypes_and_several_tensors() {
    let inputs = [
        spec("price", Datatype::Fp32, &[-1, 2]),
        spec("size", Datatype::Int64, &[-1, 1]),
    ];
    let outputs = [
        spec("sum", Datatype::Fp32, &[-1, 2]),
        spec("count", Datatype::Int64, &[-1, 1]),
    ];
    let mut mixed = session("mixed", &inputs, &outputs);
    for rows in [1_usize, 3] {
        let size: Vec<u8> = [2_i64]
            .repeat(rows)
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        let shape = |width| [i64::try_from(rows).unwrap(), width];
        let price = floats(&shape(2), &[1.0, 1.5].repeat(rows));
        let found = mixed
            .run(&[price, numbers(Datatype::Int64, &shape(1), size.clone())])
            .unwrap();
        assert_eq!(
            data(&found[0]),
            data(&floats(&shape(2), &[3.0, 3.5].repeat(rows)))
        );
        assert_eq!(data(&found[1]), &size);
    }
    let flags = [three("features", Datatype::Bool)];
    let mut flags_back = session("bool", &flags, &[three("values", Datatype::Bool)]);
    let found = flags_back
        .run(&[numbers(Datatype::Bool, &[1, 3], vec![1, 0, 1])])
        .unwrap();
    assert_eq!(data(&found[0]), &[1, 0, 1][..]);
    let mut squares = session(
        "square",
        &[three("features", Datatype::Fp32)],
        &[three("values", Datatype::Fp64)],
    );
    let found = squares.run(&[floats(&[1, 3], &[1.0, -2.0, 0.5])]).unwrap();
    let expected: Vec<u8> = [1.0_f64, 4.0, 0.25]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    assert_eq!(data(&found[0]), &expected);
    let mut half = session(
        "half",
        &[three("features", Datatype::Fp16)],
        &[three("values", Datatype::Fp16)],
    );
    for rows in [1, 2] {
        // 1.0, -2.0 and 0.5 in half precision, and their doubles.
        let sent: Vec<u8> = [0x3c00_u16, 0xc000, 0x3800]
            .repeat(rows)
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        let twice: Vec<u8> = [0x4000_u16, 0xc400, 0x3c00]
            .repeat(rows)
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        let found = half
            .run(&[numbers(Datatype::Fp16, &[rows as i64, 3], sent)])
            .unwrap();
        assert_eq!(data(&found[0]), &twice);
    }
}

#[test]
fn text_of_any_length_goes_in_and_out() {
    let (inputs, outputs) = (
        [spec("symbol", Datatype::Bytes, &[-1, 2])],
        [spec("same", Datatype::Bytes, &[-1, 2])],
    );
    let mut session = session("text", &inputs, &outputs);
    let strings = ["", "EURUSD", "a\0b", "\u{20ac}\u{1f4c8}"]
        .map(str::to_owned)
        .to_vec();
    let elements = Elements::Strings(strings.clone());
    let found = session
        .run(&[Tensor {
            datatype: Datatype::Bytes,
            shape: vec![2, 2],
            elements,
        }])
        .unwrap();
    let Elements::Strings(back) = &found[0].elements else {
        panic!("numbers")
    };
    assert_eq!((back, &found[0].shape), (&strings, &vec![2, 2]));
}

#[test]
fn values_may_decide_the_shape_of_an_output() {
    let (inputs, outputs) = (
        [three("features", Datatype::Fp32)],
        [spec("values", Datatype::Int64, &[2, -1])],
    );
    let mut session = session("nonzero", &inputs, &outputs);
    for (values, found) in [([0.0, 1.0, 0.0], 1), ([1.0, 1.0, 1.0], 3), ([0.0; 3], 0)] {
        let outputs = session.run(&[floats(&[1, 3], &values)]).unwrap();
        assert_eq!(
            (&outputs[0].shape, data(&outputs[0]).len()),
            (&vec![2, found], found as usize * 16)
        );
    }
}

#[test]
fn what_is_no_tensor_of_the_model_is_an_error_and_no_more() {
    let features = [three("features", Datatype::Fp32)];
    let mut session = session("echo", &features, &[three("values", Datatype::Fp32)]);
    let short = Tensor {
        shape: vec![2, 3],
        ..floats(&[1, 3], &[1.0, 2.0, 3.0])
    };
    assert!(session.run(&[short]).is_err());
    assert!(session.run(&[]).is_err());
    assert!(session.run(&[floats(&[1, 4], &[0.0; 4])]).is_err());
    assert!(
        session
            .run(&[numbers(Datatype::Int32, &[1, 3], vec![0; 12])])
            .is_err()
    );
    let good = floats(&[1, 3], &[1.0, 2.0, 3.0]);
    assert_eq!(
        data(&session.run(std::slice::from_ref(&good)).unwrap()[0]),
        data(&good)
    );
}

#[test]
fn the_library_that_was_loaded_first_stays() {
    Library::load(&onnxruntime()).unwrap();
    let again = Library::load(Path::new("/nonexistent/libonnxruntime.so")).unwrap();
    assert!(again.version().starts_with("1."), "{}", again.version());
}

#[test]
fn a_version_is_measured_and_a_broken_one_says_why() {
    let library = Library::load(&onnxruntime()).unwrap();
    let (room, mut seats) = Room::new(3);
    let on = Seats { room, workers: 2 };
    let echo = version_plan("echo", "1", &model_file("echo"));
    let loaded = prepare(library, &echo, on, None).unwrap();
    assert!(loaded.figures().run_time_ns > 0 && loaded.runs_inline());
    for seat in &mut seats {
        let sent = floats(&[1, 3], &[1.0, 2.0, 3.0]);
        let found = loaded
            .session(seat)
            .unwrap()
            .run(std::slice::from_ref(&sent))
            .unwrap();
        assert_eq!(data(&found[0]), data(&sent));
    }
    let mut slow = version_plan("slow", "1", &model_file("slow"));
    slow.outputs[0].shape = vec![-1, 1];
    let loaded = prepare(library, &slow, on, None).unwrap();
    let has_session: Vec<bool> = seats
        .iter_mut()
        .map(|seat| loaded.session(seat).is_some())
        .collect();
    assert_eq!(has_session, [false, false, true], "workers never run it");

    let fails = |plan: &_| match prepare(library, plan, on, None).unwrap_err() {
        PrepareError::Damaged(text) => format!("damaged: {text}"),
        PrepareError::Package(text) => text,
    };
    let absent = version_plan("absent", "1", Path::new("/nonexistent/model.onnx"));
    assert_eq!(
        fails(&absent),
        "damaged: cannot read /nonexistent/model.onnx: No such file or directory"
    );
    let mut changed = echo.clone();
    changed.model_sha256 = "00".repeat(32);
    assert_eq!(
        fails(&changed),
        "damaged: model.onnx changed after it was verified: its SHA-256 differs"
    );
    let mut renamed = echo.clone();
    renamed.inputs[0].name = "prices".to_owned();
    assert_eq!(
        fails(&renamed),
        "the model's inputs are features, its manifest says prices"
    );
    let no_model = version_plan("readme", "1", &model_file("../support/mod").with_extension("rs"));
    let said = fails(&no_model);
    assert!(
        said.starts_with("model.onnx cannot be loaded by onnxruntime 1."),
        "{said}"
    );
    let mut huge = version_plan("huge", "1", &model_file("huge"));
    huge.inputs[0].shape = vec![-1, 1 << 45];
    huge.outputs[0].shape = vec![-1, 1 << 45];
    let said = fails(&huge);
    assert!(said.contains("does not fit into memory"), "{said}");
    let mut moving = version_plan("nonzero", "1", &model_file("nonzero"));
    moving.outputs = vec![spec("values", Datatype::Int64, &[-1, 2])];
    let said = fails(&moving);
    assert!(
        said.starts_with("output 'values' has shape [2, 0] for one row, declared is [-1, 2];"),
        "{said}"
    );
}

//! Records as files: the same bytes for the same content, and checks on the way back.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_core::{Footprint, Kind};
use everburn_eval::{Accompanying, RunRecord, StreamKind};

mod common;

#[test]
fn records_come_back_and_are_written_alike() {
    let (record, accompanying) = common::split("slca", 1, 30);
    let text = record.to_json().unwrap();
    assert!(text.ends_with("}\n"));
    let back = RunRecord::from_json("result.json", &text).unwrap();
    assert_eq!(back, record);
    assert_eq!(back.to_json().unwrap(), text);
    let timing = accompanying.to_json().unwrap();
    assert_eq!(
        Accompanying::from_json("timing.json", &timing).unwrap(),
        accompanying
    );
}

#[test]
fn the_shape_of_a_record() {
    let (mut record, _) = common::split("slca", 1, 30);
    let mut footprint = Footprint::default();
    footprint.add(Kind::Trained, "head", 40);
    record.memory.as_mut().unwrap().peak = footprint.clone();
    record.memory.as_mut().unwrap().last = footprint;
    record.metrics.retain(|key, _| key.starts_with("bwt/final"));
    record.history.evaluations.truncate(1);
    insta::assert_snapshot!(record.to_json().unwrap(), @r#"
    {
      "schema": 1,
      "run": {
        "method": "slca",
        "stream": "split-2",
        "dataset": "cifar100",
        "backbone": "vit-tiny",
        "tuning": "adapter",
        "preset": "cpu",
        "device": "cpu",
        "seed": 1,
        "offline": false
      },
      "provenance": {
        "run_id": "slca-1",
        "config_hash": "c0",
        "manifest_hash": "aa",
        "dataset_hash": "dd",
        "weights_hash": null,
        "code": "0.1.0"
      },
      "settings": null,
      "metrics": {
        "bwt/final-row": -0.25
      },
      "memory": {
        "peak": {
          "memory": [
            {
              "kind": "trained",
              "name": "head",
              "bytes": 40
            }
          ],
          "macs_per_image": 0
        },
        "final": {
          "memory": [
            {
              "kind": "trained",
              "name": "head",
              "bytes": 40
            }
          ],
          "macs_per_image": 0
        }
      },
      "history": {
        "task_classes": [
          [
            0
          ],
          [
            1
          ]
        ],
        "disjoint": true,
        "evaluations": [
          {
            "samples_seen": 500,
            "task_end": 0,
            "periodic": false,
            "classes": [
              {
                "class": 0,
                "correct": 40,
                "total": 40
              }
            ]
          }
        ]
      }
    }
    "#);
}

#[test]
fn wrong_records_are_named() {
    let (record, _) = common::split("slca", 1, 30);
    let text = record.to_json().unwrap();
    let error = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let changed = text.replacen(from, to, 1);
        RunRecord::from_json("runs/a/result.json", &changed)
            .unwrap_err()
            .to_string()
    };
    let tampered = error("\"bwt/final-row\": -0.25", "\"bwt/final-row\": 0.25");
    assert!(
        tampered.contains("runs/a/result.json: metrics.bwt/final-row: found 0.25"),
        "{tampered}"
    );
    assert!(error("\"schema\": 1", "\"schema\": 2").contains("schema: found 2, expected 1"));
    assert!(error("\"correct\": 40", "\"correct\": 41").contains("correct: found 41"));
    assert!(error("\"method\"", "\"methods\"").contains("missing field `method`"));
    assert!(error("{", "").contains("runs/a/result.json"));
    let mut broken = record;
    broken.metrics.insert("x".into(), f64::NAN);
    assert!(
        broken
            .to_json()
            .unwrap_err()
            .to_string()
            .contains("metrics.x: found NaN")
    );
    let timing = Accompanying {
        wall_seconds: Some(f64::INFINITY),
        ..Accompanying::default()
    };
    assert!(
        timing
            .to_json()
            .unwrap_err()
            .to_string()
            .contains("wall_seconds: found inf")
    );
}

#[test]
fn older_records_lack_what_is_new() {
    let (record, _) = common::split("slca", 1, 30);
    let mut value = serde_json::to_value(&record).unwrap();
    let fields = value.as_object_mut().unwrap();
    fields.remove("provenance");
    fields.remove("memory");
    fields["metrics"] = serde_json::json!({});
    fields.insert("newer".into(), 1.into());
    let back = RunRecord::from_json("result.json", &value.to_string()).unwrap();
    assert_eq!((back.memory, back.history), (None, record.history));
    assert_eq!(
        Accompanying::from_json("t", "{}").unwrap(),
        Accompanying::default()
    );
}

#[test]
fn the_kind_of_stream_shows_or_is_told() {
    let (mut record, _) = common::split("slca", 1, 30);
    assert_eq!(record.kind(), StreamKind::Split);
    record.run.kind = Some(StreamKind::Online);
    assert_eq!(record.kind(), StreamKind::Online);
    assert_eq!(
        common::online("er", 1, 4, false).0.kind(),
        StreamKind::Online
    );
}

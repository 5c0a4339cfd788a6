use std::collections::BTreeMap;

use serde_json::Value;

use super::{Report, Spread};
use crate::machine::Machine;
use crate::peers::Peer;
use crate::rounds::{Outcome, Turn};
use crate::workloads;

fn turn(cpu: f64) -> Result<Turn, String> {
    Ok(Turn { values: BTreeMap::from([("cpu_us_per_req", cpu)]), facts: BTreeMap::new() })
}

fn report(ours: Vec<Result<Turn, String>>, theirs: Vec<Result<Turn, String>>) -> Report {
    let versions = vec!["isthmus: 0.1.0".to_owned()];
    let machine = Machine { cpu: "a".into(), cores: 2, kernel: "6".into(), load_average: 0.1, versions };
    let mut report = Report::new(machine, vec!["envoy-h2: not installed".to_owned()], 3, 1);
    let w2 = workloads::ALL.iter().find(|workload| workload.name == "w2").expect("there is W2");
    let ours = Outcome { peer: Peer::Isthmus, turns: ours };
    report.add(w2, vec![ours, Outcome { peer: Peer::HaproxyH2, turns: theirs }]);
    report
}

fn json(report: &Report) -> Value {
    serde_json::from_str(&report.json()).unwrap()
}

#[test]
fn the_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_the_medians() {
    // A slow hour in the second round: both are slow in it.
    let report = report(vec![turn(20.0), turn(60.0), turn(30.0)], vec![turn(20.0), turn(40.0), turn(25.0)]);
    let json = json(&report);
    assert_eq!(json["w2"]["haproxy-h2"]["ratio"], 1.2);
    assert_eq!(json["w2"]["haproxy-h2"]["ratios"]["cpu_us_per_req"], 1.2);
    assert_eq!(json["w2"]["isthmus"]["cpu_us_per_req"], 30.0);
    assert_eq!(json["w2"]["isthmus"]["ratio"], Value::Null);
    assert_eq!(json["machine"]["cores"], 2);
}

/// What telemetry costs is said over none, each round by itself.
#[test]
fn ours_are_compared_with_ours_without_telemetry_where_that_takes_part() {
    let mut report = report(vec![turn(20.0)], vec![turn(40.0)]);
    let workload = workloads::ALL.iter().find(|workload| workload.name == "telemetry").expect("there it is");
    let of = |peer, turns| Outcome { peer, turns };
    report.add(
        workload,
        vec![
            of(Peer::Isthmus, vec![turn(10.2), turn(30.9)]),
            of(Peer::IsthmusOff, vec![turn(10.0), turn(30.0)]),
            of(Peer::IsthmusAll, vec![turn(11.0), turn(33.0)]),
        ],
    );
    let json = json(&report);
    assert_eq!(json["telemetry"]["isthmus-off"]["ratio"], Value::Null);
    let ratio = |name: &str| json["telemetry"][name]["ratio"].as_f64().unwrap();
    assert!((ratio("isthmus") - 1.025).abs() < 1e-9 && (ratio("isthmus-all") - 1.1).abs() < 1e-9, "{json}");
    assert_eq!(json["w2"]["haproxy-h2"]["ratio"], 0.5, "the others as before");
}

#[test]
fn a_round_without_one_of_the_two_gives_no_ratio_and_is_told() {
    let report = report(vec![turn(20.0), Err("refused".to_owned())], vec![turn(40.0), turn(1.0)]);
    assert_eq!(json(&report)["w2"]["haproxy-h2"]["ratio"], 0.5);
    assert!(!report.is_complete());
    assert!(report.table().contains("Failed: w2 isthmus: 1 of 2 turns; the first: refused"), "{}", report.table());
}

#[test]
fn tables_name_every_contender_and_who_is_missing() {
    let report = report(vec![turn(20.0)], vec![turn(40.0)]);
    assert!(
        report.markdown().contains("| haproxy-h2 | 40.00 [40.00–40.00] | 0.50 [0.50–0.50] | – |"),
        "{}",
        report.markdown()
    );
    assert!(report.table().contains("Not measured: envoy-h2: not installed."), "{}", report.table());
}

#[test]
fn an_even_number_of_values_has_its_median_between_the_middle_two() {
    assert_eq!(Spread::of(vec![4.0, 1.0, 3.0, 2.0]), Some(Spread { median: 2.5, least: 1.0, most: 4.0 }));
    assert_eq!(Spread::of(Vec::new()), None);
}

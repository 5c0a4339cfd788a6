use super::Percentiles;

#[test]
fn percentiles_are_of_the_sorted_times() {
    let times = (1..=200).rev().map(f64::from).collect();
    assert_eq!(Percentiles::of(times), Some(Percentiles { p50_us: 101.0, p99_us: 199.0 }));
    assert_eq!(Percentiles::of(vec![7.0]), Some(Percentiles { p50_us: 7.0, p99_us: 7.0 }));
    assert_eq!(Percentiles::of(Vec::new()), None);
}

use super::{Load, microseconds, parse};

const REPORT: &str = "\
Running 10s test @ http://127.0.0.1:15001/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.53ms  420.00us  12.10ms   88.00%
    Req/Sec    41.75k     2.11k   45.00k    70.00%
  Latency Distribution
     50%  512.00us
     75%    1.72ms
     90%    1.99ms
     99%    2.90ms
  415477 requests in 10.00s, 107.38MB read
Requests/sec:  41546.21
Transfer/sec:     10.74MB
";

#[test]
fn a_report_is_read() {
    let load = Load { requests: 415_477.0, requests_per_second: 41_546.21, p50_us: 512.0, p99_us: 2_900.0 };
    assert_eq!(parse(REPORT), Ok(load));
}

#[test]
fn failed_requests_make_a_report_worthless() {
    for line in ["  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 2, write 0, timeout 0\n"] {
        let report = REPORT.replace("Requests/sec", &format!("{line}Requests/sec"));
        let error = parse(&report).expect_err("errors are told");
        assert!(error.contains(line.trim()), "{error}");
    }
}

#[test]
fn each_unit_of_time_is_known() {
    let read = ["512.00us", "1.50ms", "2.00s", "1.00m", "7"].map(microseconds);
    assert_eq!(read, [Some(512.0), Some(1_500.0), Some(2e6), Some(60e6), None]);
}

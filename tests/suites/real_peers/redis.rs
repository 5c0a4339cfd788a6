//! Redis: opaque bytes, declared as such and not declared at all.

use std::fs;

use isthmus_world::Command;

use crate::shop::{NAME, Shop};
use crate::{Case, require};

pub(crate) const CASES: &[Case] = &[
    ("redis_keeps_what_it_is_given", &["redis-server", "redis-cli"], set_and_get),
    ("redis_benchmark_gets_every_answer", &["redis-server", "redis-benchmark", "redis-cli"], benchmark),
    ("redis_is_refused_for_who_is_not_allowed", &["redis-server"], refused),
];

fn cli(port: u16, arguments: &[&str]) -> Command {
    Command::new("redis-cli").args(["-h", NAME, "-p", &port.to_string()]).args(arguments)
}

fn set_and_get(shop: &Shop) -> Result<(), String> {
    shop.redis()?;
    for port in [6379, 6380] {
        let key = format!("key-{port}");
        let set = shop.crossing(1, || shop.succeed("web", cli(port, &["set", &key, "a value"])))?;
        require(set == "OK\n", || format!("{port}: {set}"))?;
        let got = shop.crossing(1, || shop.succeed("web", cli(port, &["get", &key])))?;
        require(got == "a value\n", || format!("{port}: {got}"))?;
    }
    let file = shop.file("value");
    let value = "0123456789abcdef".repeat(500_000);
    fs::write(&file, &value).map_err(|e| e.to_string())?;
    let shell = format!("redis-cli -h {NAME} -p 6379 -x set large < \"$0\"");
    let set = shop.crossing(1, || shop.succeed("web", Command::new("sh").args(["-c", &shell]).arg(&file)))?;
    require(set == "OK\n", || set.clone())?;
    let shell = format!("redis-cli -h {NAME} -p 6379 --raw get large > \"$0\"");
    shop.crossing(1, || shop.succeed("web", Command::new("sh").args(["-c", &shell]).arg(&file)))?;
    let back = fs::read_to_string(&file).map_err(|e| e.to_string())?;
    require(back.trim_end() == value, || format!("{} bytes came back", back.len()))
}

fn benchmark(shop: &Shop) -> Result<(), String> {
    shop.redis()?;
    for port in [6379, 6380] {
        shop.succeed("web", cli(port, &["config", "resetstat"]))?;
        let command = Command::new("redis-benchmark").args([
            "-h",
            NAME,
            "-p",
            &port.to_string(),
            "-n",
            "4000",
            "-c",
            "20",
            "-P",
            "8",
            "-q",
            "-t",
            "set,get",
        ]);
        let said = shop.crossing(20, || shop.succeed("web", command))?;
        require(said.matches("requests per second").count() == 2, || said.clone())?;
        let stats = shop.succeed("web", cli(port, &["info", "commandstats"]))?;
        let all = ["cmdstat_set:calls=4000,", "cmdstat_get:calls=4000,"].iter().all(|count| stats.contains(count));
        require(all, || format!("Redis counts otherwise: {stats}"))?;
    }
    Ok(())
}

fn refused(shop: &Shop) -> Result<(), String> {
    shop.redis()?;
    shop.refuses_batch(6379, b"*1\r\n$4\r\nPING\r\n")?;
    shop.refuses_batch(6380, b"*1\r\n$4\r\nPING\r\n")
}

//! What an evaluation costs, context included, and what loading costs.
//!
//! W1: a boolean, 25 % rollout. W2: a country in a list of 20 and a version of at least 1.2.3, then 50 %.
//! W3: a string, three variants with weights 50, 30 and 20. Flags and users change with every evaluation.

#![expect(clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Map, Value, json};
use zdm_flags::{Context, Flag, Flags};

const COUNTRIES: [&str; 20] = [
    "US", "GB", "DE", "FR", "ES", "IT", "NL", "SE", "NO", "DK", "FI", "PL", "PT", "IE", "BE", "AT", "CH",
    "CA", "AU", "JP",
];
const VERSIONS: [&str; 5] = ["0.9.12", "1.2.2", "1.2.3", "1.10.1", "3.1.0"];

fn file(count: usize) -> Vec<u8> {
    let boolean = json!({"on": true, "off": false});
    let mut flags = Map::new();
    for number in 0..count {
        let flag = match number % 3 {
            0 => json!({"state": "ENABLED", "variants": boolean, "defaultVariant": "off",
                "targeting": {"fractional": [["on", 25], ["off", 75]]}}),
            1 => {
                json!({"state": "ENABLED", "variants": boolean, "defaultVariant": "off", "targeting": {"if": [
                {"and": [{"in": [{"var": "country"}, COUNTRIES]}, {"sem_ver": [{"var": "version"}, ">=", "1.2.3"]}]},
                {"fractional": [["on", 50], ["off", 50]]}, "off"]}})
            }
            _ => {
                json!({"state": "ENABLED", "variants": {"control": "control", "compact": "compact", "spacious": "spacious"},
                "defaultVariant": "control",
                "targeting": {"fractional": [["control", 50], ["compact", 30], ["spacious", 20]]}})
            }
        };
        flags.insert(format!("flag-{number:05}"), flag);
    }
    let file: Value = json!({"metadata": {"zdm.bucketing": "flagd-v2"}, "flags": flags});
    file.to_string().into_bytes()
}

struct User {
    id: String,
    country: &'static str,
    version: &'static str,
}

fn users() -> Vec<User> {
    let country = |number: usize| COUNTRIES.get(number * 7 % 25).copied().unwrap_or("BR");
    (0..1_024_usize)
        .map(|number| User {
            id: format!("u-{:010x}", number.wrapping_mul(0x9e37_79b9)),
            country: country(number),
            version: VERSIONS[number * 3 % 5],
        })
        .collect()
}

fn handles<T: Clone>(kind: usize, default: T) -> Vec<Flag<T>> {
    let key = |number: usize| -> &'static str { format!("flag-{number:05}").leak() };
    (0..33).map(|number| Flag::new(key(number * 3 + kind), default.clone())).collect()
}

fn evaluation(criterion: &mut Criterion) {
    let flags = Flags::from_json(&file(100)).unwrap();
    let users = users();
    let (w1, w2, w3) = (handles(0, false), handles(1, false), handles(2, ""));
    let mut at = 0_usize;
    let mut next = || {
        at = at.wrapping_add(0x9e37_79b9);
        (&users[(at >> 7) & 1_023], (at >> 3) % 33)
    };
    criterion.bench_function("W1", |bencher| {
        bencher.iter(|| {
            let (user, flag) = next();
            flags.get(black_box(&w1[flag]), &Context::key(&user.id))
        });
    });
    criterion.bench_function("W2", |bencher| {
        bencher.iter(|| {
            let (user, flag) = next();
            let cx = Context::key(&user.id).with("country", user.country).with("version", user.version);
            flags.get(black_box(&w2[flag]), &cx)
        });
    });
    criterion.bench_function("W3", |bencher| {
        bencher.iter(|| {
            let (user, flag) = next();
            flags.load().get(black_box(&w3[flag]), &Context::key(&user.id)).len()
        });
    });
    criterion.bench_function("W1 by name", |bencher| {
        bencher.iter(|| {
            let (user, flag) = next();
            flags.load().by_name::<bool>(black_box(w1[flag].key()), false, &Context::key(&user.id))
        });
    });
}

fn loading(criterion: &mut Criterion) {
    let bytes = file(10_000);
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    group.bench_function("10,000 flags", |bencher| bencher.iter(|| Flags::from_json(&bytes).unwrap()));
    group.finish();
}

criterion_group!(benches, evaluation, loading);
criterion_main!(benches);

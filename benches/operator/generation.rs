//! Material that takes long: the CPU time of one generation, and the share of a core that one credential may use.

use credential_operator::{
    api::CredentialSpec,
    domain::{
        material::{self, Request, cost},
        token::Prefix,
    },
};
use jiff::Timestamp;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    Arguments,
    measure::{cpu_seconds, float},
    table::Table,
};

/// So often is each generated, unless that takes longer than [`AT_MOST`].
const TIMES: usize = 40;
/// In seconds of CPU time.
const AT_MOST: f64 = 60.0;

pub fn run(arguments: &Arguments) {
    let times = TIMES * arguments.rounds_or(1);
    let mut table = Table::new(
        format!("Generation: the mean of {times}, and what one credential may use"),
        &["", "CPU, s", "as the operator reckons", "ratio", "shortest period, s", "% of a core"],
    );
    for (name, spec) in types() {
        let spec: CredentialSpec = serde_json::from_value(spec).unwrap();
        let mean = measured(&spec, times);
        let (reckoned, period) =
            (cost::cpu_time(&spec).as_secs_f64(), cost::shortest_period(&spec).as_secs_f64());
        let share = if period > 0.0 { format!("{:.2}", 100.0 * mean / period) } else { "-".to_owned() };
        let cells = [
            format!("{mean:.3}"),
            format!("{reckoned:.3}"),
            format!("{:.2}", mean / reckoned),
            format!("{period:.0}"),
            share,
        ];
        table.row(name, cells);
    }
    table.print();
}

fn types() -> Vec<(String, Value)> {
    let hashed = |name: &str, block: Value| {
        (name.to_owned(), json!({"type": "HashedPassword", "hashedPassword": block}))
    };
    let bcrypt =
        |cost: u32| hashed(&format!("bcrypt, cost {cost}"), json!({"algorithm": "Bcrypt", "cost": cost}));
    let rsa = |size: u32| {
        (format!("RSA, {size} bits"), json!({"type": "SshKey", "sshKey": {"algorithm": "Rsa", "size": size}}))
    };
    let others = [
        hashed("Argon2id", json!({"algorithm": "Argon2id"})),
        hashed("sha512-crypt", json!({"algorithm": "Sha512Crypt"})),
    ];
    let costs = (10..=15).map(bcrypt);
    others.into_iter().chain(costs).chain([2_048, 3_072, 4_096].map(rsa)).collect()
}

/// The mean of the CPU times of this process.
fn measured(spec: &CredentialSpec, times: usize) -> f64 {
    let generated = material::kind(spec.credential_type).unwrap().generated.as_ref().unwrap();
    let prefix = Prefix::default();
    let request = Request {
        spec,
        namespace: "n",
        name: "c",
        now: Timestamp::UNIX_EPOCH,
        prefix: &prefix,
        issuer: None,
    };
    let process = std::process::id();
    let before = cpu_seconds(process);
    let mut done = 0;
    while done < times && cpu_seconds(process) - before < AT_MOST {
        let mut random = StdRng::seed_from_u64(u64::try_from(done).unwrap_or_default());
        std::hint::black_box((generated.draw)(&request, &mut random).unwrap());
        done += 1;
    }
    (cpu_seconds(process) - before) / float(done)
}

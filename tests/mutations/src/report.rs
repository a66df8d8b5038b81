//! Many requests, and what came of them.

use std::{
    collections::BTreeMap,
    fmt, fs, io, panic,
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::task::JoinSet;

use crate::{
    Protocol,
    client::Client,
    draw::{Drawn, Expected},
    world::World,
};

/// How many clients send at a time.
const CLIENTS: u64 = 16;
/// After which part of them memory is looked at first: by then every buffer has its size.
const WARM_AFTER: u64 = 5;
/// More than the memory of a process moves by itself, in KiB; less than a million requests would leave if each left a word.
const FLAT: u64 = 8 * 1024;
/// How many failures are told of.
const TOLD: usize = 10;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// How many valid ones were accepted.
    pub accepted: u64,
    /// How many values were refused, all by one answer.
    pub refused: u64,
    /// How many were not accepted, however that was said.
    pub not_accepted: u64,
    /// How many were accepted though damaged, since the value in them was whole.
    pub survived: u64,
    /// By how each answer began.
    pub answers: BTreeMap<String, u64>,
    /// What should not have come of it, as far as it is told of.
    pub failures: Vec<String>,
    /// How many should not have come.
    pub failed: u64,
    /// How often anything in this process panicked.
    pub panics: u64,
    /// Memory of this process in KiB, when all was warm and at the end.
    pub resident: [u64; 2],
}

impl Report {
    /// Whether all is as it should be: valid ones were there and accepted, nothing else was, and nothing broke.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let [warm, end] = self.resident;
        self.accepted > 0 && self.refused > 0 && self.failed == 0 && self.panics == 0 && end < warm + FLAT
    }

    fn take_in(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.not_accepted += other.not_accepted;
        self.survived += other.survived;
        self.failed += other.failed;
        for (answer, count) in other.answers {
            *self.answers.entry(answer).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.failures.truncate(TOLD);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [warm, end] = self.resident;
        writeln!(f, "  valid ones, accepted                 {}", self.accepted)?;
        writeln!(f, "  damaged ones whose value was whole   {}", self.survived)?;
        writeln!(f, "  wrong values, refused by one answer  {}", self.refused)?;
        writeln!(f, "  others, not accepted                 {}", self.not_accepted)?;
        writeln!(f, "  not as it should be                  {}", self.failed)?;
        writeln!(f, "  panics                               {}", self.panics)?;
        writeln!(f, "  memory, KiB: when warm, at the end   {warm}, {end}")?;
        for (answer, count) in &self.answers {
            writeln!(f, "  answered {answer:?}: {count}")?;
        }
        self.failures.iter().try_for_each(|failure| writeln!(f, "  {failure}"))
    }
}

/// Sends the first `requests` of a seed.
///
/// # Errors
/// When the verifier cannot be asked at all.
pub async fn run(world: &World, seed: u64, protocol: Protocol, requests: u64) -> io::Result<Report> {
    count_panics();
    let reference = reference(world, protocol).await?;
    let warm = requests / WARM_AFTER;
    let mut report = send(world, seed, protocol, 0..warm, &reference).await;
    report.resident[0] = resident();
    report.take_in(send(world, seed, protocol, warm..requests, &reference).await);
    report.resident[1] = resident();
    report.panics = PANICS.load(Ordering::Relaxed);
    Ok(report)
}

/// The answer to a value that nobody ever had.
async fn reference(world: &World, protocol: Protocol) -> io::Result<String> {
    let bytes = world.asker.unknown(protocol);
    let drawn = Drawn { bytes, whole: true, expected: Expected::Refused };
    Client::new(world.address).send(&drawn).await.map(dateless)
}

async fn send(
    world: &World,
    seed: u64,
    protocol: Protocol,
    numbers: std::ops::Range<u64>,
    reference: &str,
) -> Report {
    let mut clients = JoinSet::new();
    for first in 0..CLIENTS {
        let (asker, address, reference) = (world.asker.clone(), world.address, reference.to_owned());
        let numbers = (numbers.start + first..numbers.end).step_by(CLIENTS.try_into().unwrap_or(1));
        clients.spawn(async move {
            let (mut client, mut report) = (Client::new(address), Report::default());
            for number in numbers {
                let drawn = asker.draw(seed, protocol, number);
                let answer = client.send(&drawn).await;
                if let Err(why) = report.judge(protocol, &drawn, answer, &reference) {
                    report.failed += 1;
                    let request = drawn.bytes.escape_ascii();
                    report.failures.push(format!("seed {seed}, {protocol} {number}: {why}\n  {request}"));
                }
            }
            report
        });
    }
    let mut report = Report::default();
    while let Some(done) = clients.join_next().await {
        match done {
            Ok(done) => report.take_in(done),
            Err(error) => {
                report.failed += 1;
                report.failures.push(error.to_string());
            }
        }
    }
    report
}

impl Report {
    /// Counts an answer.
    ///
    /// # Errors
    /// When it is not what was expected.
    fn judge(
        &mut self,
        protocol: Protocol,
        drawn: &Drawn,
        answer: io::Result<&[u8]>,
        reference: &str,
    ) -> Result<(), String> {
        let answer = answer.map_err(|error| format!("no answer: {error}"))?;
        let begin = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let begin = if begin.starts_with(b"HTTP/1.1 ") {
            String::from_utf8_lossy(begin).into_owned()
        } else {
            "none".to_owned()
        };
        *self.answers.entry(begin).or_default() += 1;
        let accepted = is_acceptance(protocol, answer);
        let told = || String::from_utf8_lossy(answer).into_owned();
        match &drawn.expected {
            Expected::Accepted if accepted => self.accepted += 1,
            Expected::Accepted => return Err(format!("a valid one was not accepted: {}", told())),
            Expected::OnlyBy(value) if accepted && holds(&drawn.bytes, value.as_bytes()) => {
                self.survived += 1;
            }
            _ if accepted => return Err(format!("it was accepted: {}", told())),
            Expected::Refused if dateless(answer) == *reference => self.refused += 1,
            Expected::Refused => return Err(format!("it was refused by another answer: {}", told())),
            Expected::NotAccepted | Expected::OnlyBy(_) => self.not_accepted += 1,
        }
        Ok(())
    }
}

/// Whether anywhere in what was answered there is an acceptance. A gateway lets pass by any 200.
fn is_acceptance(protocol: Protocol, answer: &[u8]) -> bool {
    match protocol {
        Protocol::ForwardAuth => holds(answer, b"HTTP/1.1 2") || holds(answer, b"x-credential-"),
        Protocol::Introspection => holds(answer, b"\"active\":true"),
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// An answer without the time of day.
fn dateless(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    text.split_inclusive('\n').filter(|line| !line.starts_with("date: ")).collect()
}

fn count_panics() {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            before(panic);
        }));
    });
}

/// Memory of this process in KiB, from /proc/self/status (proc(5)).
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

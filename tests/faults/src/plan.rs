//! What goes wrong in a run, as a line of text.
//!
//! `SCENARIO: FAULT@REQUEST, FAULT@REQUEST` where a request is `VERB/RESOURCE/NAME`, with `#N` for the N-th of them, or
//! just a number: the N-th write. Each fault counts from where the one before it struck.

use std::{fmt, str::FromStr};

use control_plane::Part;
use thiserror::Error;

/// What goes wrong while users do something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// What users do.
    pub scenario: String,
    /// What goes wrong, one after the other.
    pub injections: Vec<Injection>,
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Injection {
    /// What.
    pub fault: Fault,
    /// At which write of the operator.
    pub at: At,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The operator is killed, and the request was never sent.
    KillBefore,
    /// The operator is killed after the API server did what was asked, and before it hears so.
    KillCommitted,
    /// The operator is killed after it heard the answer, before its next request.
    KillAnswered,
    /// The API server did what was asked, and the connection breaks before the answer.
    LostAnswer,
    /// The API server did what was asked and answers 504.
    LateAnswer,
    /// The API server answers with this status, and does nothing.
    Answer(u16),
    /// This watch shows nothing for three seconds, then goes on.
    Freeze(Kind),
    /// This watch breaks instead of showing its next event.
    Break(Kind),
    /// This watch ends with 410 (Gone) instead of showing its next event.
    Expire(Kind),
    /// This part of the control plane is paused for three seconds.
    Pause(Part),
    /// From now on there are two operators that both believe they lead.
    SecondLeader,
    /// The operator's clock is set back by an hour.
    ClockBack,
    /// The operator's clock is put forward by an hour.
    ClockForward,
}

/// What the operator watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `apitokens`
    ApiTokens,
    /// `credentials`
    Credentials,
    /// `secrets`
    Secrets,
    /// `serviceaccounts`
    ServiceAccounts,
    /// `rolebindings`
    RoleBindings,
}

/// Which request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// The N-th write, from 1.
    Number(usize),
    /// The N-th of these, from 1.
    Request(Request, usize),
}

/// A write, by what it does and to what.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Request {
    /// `create`, `update`, `patch` or `delete`.
    pub verb: String,
    /// Plural, with a dot before a subresource: `apitokens.status`.
    pub resource: String,
    /// The object's name.
    pub name: String,
}

/// Why a line is no plan.
#[derive(Debug, Error)]
#[error(
    "{line:?} is no plan: {why}; write SCENARIO: FAULT@VERB/RESOURCE/NAME#N, such as revoke: kill-before@delete/secrets/t-token#1"
)]
pub struct PlanError {
    line: String,
    why: String,
}

impl Fault {
    /// Every fault that strikes one request.
    pub const OF_REQUESTS: [Self; 10] = [
        Self::KillBefore,
        Self::KillCommitted,
        Self::KillAnswered,
        Self::LostAnswer,
        Self::LateAnswer,
        Self::Answer(409),
        Self::Answer(429),
        Self::Answer(500),
        Self::Answer(503),
        Self::SecondLeader,
    ];

    /// Every fault of a watch or of the clock.
    pub const OF_SURROUNDINGS: [Self; 17] = [
        Self::Freeze(Kind::ApiTokens),
        Self::Freeze(Kind::Credentials),
        Self::Freeze(Kind::Secrets),
        Self::Freeze(Kind::ServiceAccounts),
        Self::Freeze(Kind::RoleBindings),
        Self::Break(Kind::ApiTokens),
        Self::Break(Kind::Credentials),
        Self::Break(Kind::Secrets),
        Self::Break(Kind::ServiceAccounts),
        Self::Break(Kind::RoleBindings),
        Self::Expire(Kind::ApiTokens),
        Self::Expire(Kind::Credentials),
        Self::Expire(Kind::Secrets),
        Self::Expire(Kind::ServiceAccounts),
        Self::Expire(Kind::RoleBindings),
        Self::ClockBack,
        Self::ClockForward,
    ];

    /// Every fault that other runs on the same control plane would feel.
    pub const OF_SHARED_PARTS: [Self; 2] = [Self::Pause(Part::ApiServer), Self::Pause(Part::Etcd)];

    /// Whether other runs on the same control plane feel it.
    #[must_use]
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Pause(_))
    }

    /// Every fault.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::OF_REQUESTS.into_iter().chain(Self::OF_SURROUNDINGS).chain(Self::OF_SHARED_PARTS)
    }
}

impl Kind {
    /// As the API server names it.
    #[must_use]
    pub fn resource(self) -> &'static str {
        match self {
            Self::ApiTokens => "apitokens",
            Self::Credentials => "credentials",
            Self::Secrets => "secrets",
            Self::ServiceAccounts => "serviceaccounts",
            Self::RoleBindings => "rolebindings",
        }
    }
}

impl Plan {
    /// Nothing goes wrong.
    #[must_use]
    pub fn undisturbed(scenario: &str) -> Self {
        Self { scenario: scenario.to_owned(), injections: Vec::new() }
    }

    /// This goes wrong, one after the other.
    #[must_use]
    pub fn of(scenario: &str, injections: Vec<Injection>) -> Self {
        Self { scenario: scenario.to_owned(), injections }
    }

    /// Whether two operators may be at work at one time: a request of one that was killed may still be under way.
    #[must_use]
    pub fn may_race(&self) -> bool {
        let races = |fault| {
            matches!(
                fault,
                Fault::SecondLeader
                    | Fault::KillBefore
                    | Fault::KillCommitted
                    | Fault::KillAnswered
                    | Fault::LostAnswer
            )
        };
        self.injections.iter().any(|injection| races(injection.fault))
    }

    /// Whether two operators believe that they lead.
    #[must_use]
    pub fn has_two_leaders(&self) -> bool {
        self.injections.iter().any(|injection| injection.fault == Fault::SecondLeader)
    }

    /// Whether it must have the control plane to itself.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.injections.iter().any(|injection| injection.fault.is_shared())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillBefore => f.write_str("kill-before"),
            Self::KillCommitted => f.write_str("kill-committed"),
            Self::KillAnswered => f.write_str("kill-answered"),
            Self::LostAnswer => f.write_str("lost-answer"),
            Self::LateAnswer => f.write_str("late-504"),
            Self::Answer(status) => write!(f, "answer-{status}"),
            Self::Freeze(kind) => write!(f, "freeze-{}", kind.resource()),
            Self::Break(kind) => write!(f, "break-{}", kind.resource()),
            Self::Expire(kind) => write!(f, "410-{}", kind.resource()),
            Self::Pause(part) => write!(f, "pause-{part}"),
            Self::SecondLeader => f.write_str("second-leader"),
            Self::ClockBack => f.write_str("clock-back"),
            Self::ClockForward => f.write_str("clock-forward"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.verb, self.resource, self.name)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Request(request, number) => write!(f, "{request}#{number}"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scenario)?;
        for (n, Injection { fault, at }) in self.injections.iter().enumerate() {
            write!(f, "{} {fault}@{at}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(line: &str) -> Result<Self, PlanError> {
        let error = |why: &str| PlanError { line: line.to_owned(), why: why.to_owned() };
        let (scenario, rest) = line.split_once(':').ok_or_else(|| error("there is no colon"))?;
        let injections = rest.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| {
            let (fault, at) = part.split_once('@').ok_or_else(|| error("there is no @"))?;
            let fault = Fault::all().find(|known| known.to_string() == fault);
            let fault = fault.ok_or_else(|| error("there is no such fault"))?;
            let at = at_of(at).ok_or_else(|| error("there is no such request"))?;
            Ok(Injection { fault, at })
        });
        Ok(Self { scenario: scenario.trim().to_owned(), injections: injections.collect::<Result<_, _>>()? })
    }
}

fn at_of(text: &str) -> Option<At> {
    if let Ok(number) = text.parse() {
        return Some(At::Number(number));
    }
    let (request, number) = text.split_once('#').unwrap_or((text, "1"));
    let mut parts = request.splitn(3, '/').map(ToOwned::to_owned);
    let request = Request { verb: parts.next()?, resource: parts.next()?, name: parts.next()? };
    Some(At::Request(request, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_read_as_it_is_written() {
        for fault in Fault::all() {
            for at in ["3", "create/secrets/t-token#1", "update/apitokens.status/t#2"] {
                let line = format!("issue: {fault}@{at}, kill-before@1");
                assert_eq!(line.parse::<Plan>().unwrap().to_string(), line);
            }
        }
        assert_eq!("issue:".parse::<Plan>().unwrap(), Plan::undisturbed("issue"));
    }

    #[test]
    fn what_is_no_plan_says_why() {
        for (line, why) in [
            ("issue", "no colon"),
            ("issue: kill", "no @"),
            ("issue: nap@1", "no such fault"),
            ("issue: kill-before@x", "no such request"),
        ] {
            assert!(line.parse::<Plan>().unwrap_err().to_string().contains(why));
        }
    }
}

//! Evaluates CredentialPolicies for one Credential or ApiToken, from the caches only.

use std::collections::HashSet;

use super::{COUNT_EVERY, Group, Judgements};
use crate::{
    api::{ApiToken, Credential},
    controller::{
        Context, Key, Place,
        cache::Kept,
        kept::{CredentialBrief, TokenBrief},
    },
    domain::policy::{Asked, Breach, Severity, Standing, gravest},
};

impl Context {
    /// Returns the gravest policy violation of a credential. If it has changed, the credential and its tokens are reconciled
    /// again.
    pub fn judge(&self, credential: &Credential) -> Option<Breach> {
        let (breaches, is_news) = self.breaches(credential);
        if is_news {
            let judgements = &mut self.memory().policy;
            if !judgements.policies.is_empty() {
                judgements.uncounted.extend(credential.metadata.namespace.clone());
                self.queue.add_after(&Key::Policies, COUNT_EVERY);
            }
        }
        gravest(breaches)
    }

    /// Returns all policy violations of a credential, and whether the gravest of them has changed.
    pub(super) fn breaches(&self, credential: &Credential) -> (Vec<Breach>, bool) {
        let (key, place, brief) = (Key::credential(credential), Place::of(credential), credential.brief());
        // One lock for all of it: a pass after a change of policies must see every earlier evaluation, and only one of two
        // credentials that request the last place gets it.
        let mut memory = self.memory();
        let judgements = &mut memory.policy;
        let policies = judgements.policies.clone();
        let labels = self.namespaces.brief(&namespace_of(&place));
        let rules = policies.within(labels.as_ref());
        let own = rank_of_credential(&judgements.admitted, &place, &brief);
        let more: Vec<_> = [
            self.config.reach.refusal(&credential.spec, place.namespace()).map(Breach::out_of_reach),
            judgements.unguarded.clone().map(Breach::unguarded),
            judgements.while_lost(),
        ]
        .into_iter()
        .flatten()
        .collect();
        let judge = |behind| {
            let asked = Asked { spec: &credential.spec, namespace: place.namespace(), behind };
            let mut breaches = rules.credential(&asked, self.clock.now());
            breaches.extend(more.iter().cloned());
            if brief.over {
                breaches.clear();
            }
            breaches
        };
        let mut breaches = judge(0);
        // An ended credential does not count and needs no place.
        if rules.count_credentials() && !brief.over {
            let group = Group::Namespace(place.namespace().to_owned());
            let behind = self.behind(judgements, &group, &own, |behind| gets_a_place(&judge(behind)));
            breaches = judge(behind);
            if own.asks && gets_a_place(&breaches) {
                judgements.admitted.insert(key.clone());
            }
        }
        let breach = gravest(breaches.clone());
        let news = judgements.breaches.get(&key) != breach.as_ref();
        match breach {
            Some(breach) if news => judgements.breaches.insert(key.clone(), breach),
            None if news => judgements.breaches.remove(&key),
            _ => None,
        };
        drop(memory);
        if news {
            for token in self.tokens.places_owned_by(&key) {
                self.queue.add(Key::ApiToken(token));
            }
            self.queue.add(key);
        }
        (breaches, news)
    }

    /// Returns the policy violation of a token, or of its credential if it applies to the token.
    pub fn judge_token(&self, token: &ApiToken, credential: &Credential) -> Option<Breach> {
        if let Some(breach) = self.judge(credential).filter(|breach| breach.severity != Severity::Terms) {
            return Some(breach);
        }
        let (key, place, brief) = (Key::api_token(token), Place::of(token), token.brief());
        let created_at = brief.created_at?;
        let mut memory = self.memory();
        let judgements = &mut memory.policy;
        let policies = judgements.policies.clone();
        let labels = self.namespaces.brief(&namespace_of(&place));
        let rules = policies.within(labels.as_ref());
        let own = rank_of_token(&judgements.admitted, &place, &brief);
        let credential = Key::credential(credential);
        let judge = |behind| gravest(rules.token(&token.spec, created_at, behind));
        if !rules.count_tokens() || brief.over {
            return judge(0);
        }
        let group = Group::Credential(credential.clone());
        let behind = self.behind(judgements, &group, &own, |behind| judge(behind).is_none());
        let breach = judge(behind);
        if own.asks && breach.is_none() {
            judgements.admitted.insert(key);
        }
        breach
    }

    /// Returns how many members of the group are ranked before `own`. If `own` requests a place and `allows` grants it at
    /// this rank, it counts as admitted from then on.
    fn behind(
        &self,
        judgements: &mut Judgements,
        group: &Group,
        own: &Standing<'_>,
        allows: impl Fn(usize) -> bool,
    ) -> usize {
        let Judgements { ranks, admitted, .. } = judgements;
        let all = || {
            let mut all = Vec::new();
            match group {
                Group::Namespace(namespace) => self.credentials.each_in(namespace, |place, brief| {
                    all.extend((!brief.over).then(|| rank_of_credential(admitted, place, brief).into()));
                }),
                Group::Credential(credential) => self.tokens.each_owned_by(credential, |place, brief| {
                    all.extend((!brief.over).then(|| rank_of_token(admitted, place, brief).into()));
                }),
            }
            all
        };
        ranks.behind(group, own, all, allows)
    }
}

fn rank_of_credential<'a>(
    admitted: &HashSet<Key>,
    place: &'a Place,
    brief: &CredentialBrief,
) -> Standing<'a> {
    let asks = !brief.established && !admitted.contains(&Key::Credential(place.clone()));
    Standing { asks, created_at: brief.created_at, name: place.name() }
}

fn rank_of_token<'a>(admitted: &HashSet<Key>, place: &'a Place, brief: &TokenBrief) -> Standing<'a> {
    let asks = !brief.issued && !admitted.contains(&Key::ApiToken(place.clone()));
    Standing { asks, created_at: brief.created_at, name: place.name() }
}

/// Whether the remaining violations of a credential allow it a place under a count.
fn gets_a_place(breaches: &[Breach]) -> bool {
    breaches.iter().all(|breach| breach.severity == Severity::Terms)
}

fn namespace_of(place: &Place) -> Place {
    Place::new("", place.namespace())
}

//! What several control planes tell each other, as everybody else knows it: kept in [`super::lead`], told under its lease.

use super::super::{Replicas, StoreError, Stream, Told};
use super::EtcdStore;
use super::lead::lock;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Replicas for EtcdStore {
    fn name(&self) -> String {
        lock(&self.inner.lead).name.clone()
    }

    fn all(&self) -> BTreeMap<String, Value> {
        lock(&self.inner.others).replicas.clone()
    }

    fn say(&self, of_itself: Value) -> Result<(), StoreError> {
        {
            let mut lead = lock(&self.inner.lead);
            (lead.says, lead.said) = (of_itself, false);
        }
        self.ask(|inner| async move { inner.speak().await })
    }

    fn hold(&self, workloads: &[(String, Stream)]) -> Result<(), StoreError> {
        {
            let mut lead = lock(&self.inner.lead);
            for (workload, stream) in workloads {
                match stream {
                    Stream::Gone => lead.here.remove(workload),
                    held => lead.here.insert(workload.clone(), *held),
                };
                lead.moves.insert(workload.clone(), *stream);
            }
        }
        self.ask(|inner| async move { inner.speak().await })
    }

    fn held_elsewhere(&self) -> BTreeMap<String, bool> {
        let own = self.name();
        let mut held = BTreeMap::new();
        for ((workload, _), ready) in lock(&self.inner.others).here.iter().filter(|((_, replica), _)| *replica != own) {
            *held.entry(workload.clone()).or_insert(false) |= ready;
        }
        held
    }

    fn tell(&self, pieces: Vec<(String, Option<Value>)>) -> Result<(), StoreError> {
        {
            let mut lead = lock(&self.inner.lead);
            for (piece, value) in pieces {
                let value = value.map(Arc::new);
                match &value {
                    Some(value) => lead.tells.insert(piece.clone(), value.clone()),
                    None => lead.tells.remove(&piece),
                };
                lead.untold.insert(piece, value);
            }
        }
        self.ask(|inner| async move { inner.speak().await })
    }

    fn told(&self, seen: u64) -> (u64, Option<Told>) {
        let own = self.name();
        let others = lock(&self.inner.others);
        if others.tellings == seen {
            return (seen, None);
        }
        let told = others.told.iter().filter(|((replica, _), _)| *replica != own);
        (others.tellings, Some(told.map(|(key, value)| (key.clone(), value.clone())).collect()))
    }

    fn cut_off(&self) -> Option<Duration> {
        let until = lock(&self.inner.lead).until?;
        Instant::now().checked_duration_since(until).filter(|since| !since.is_zero())
    }

    fn leader(&self) -> Option<String> {
        lock(&self.inner.others).leader.clone()
    }
}

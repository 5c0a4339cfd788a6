//! The store as everybody else knows it: each call is carried out on the store's own thread, and waited for.

use super::EtcdStore;
use crate::store::recent::Since;
use crate::store::{Change, Contents, Dump, Replicas, Store, StoreError, TokenRecord};
use serde_json::Value;
use std::time::Duration;

impl Store for EtcdStore {
    fn load(&self) -> Result<Contents, StoreError> {
        self.ask(|inner| async move { inner.contents().await.map(|(_, contents)| contents) })
    }

    fn commit(&self, after: u64, change: &Change) -> Result<u64, StoreError> {
        let change = change.clone();
        self.ask(move |inner| async move { inner.commit(after, change).await })
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let (_, rows) = self.ask(|inner| async move { inner.list::<TokenRecord>("t/", "", 0).await })?;
        Ok(rows.into_iter().map(|(_, token)| token).collect())
    }

    fn token(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        let id = id.to_string();
        let found = self.ask(move |inner| async move { inner.read("t/", &id).await })?;
        Ok(found.map(|(_, token)| token))
    }

    fn swap_token(&self, id: &str, seen: Option<&TokenRecord>, new: Option<&TokenRecord>) -> Result<bool, StoreError> {
        let (id, change) = (id.to_string(), (seen.cloned(), new.cloned()));
        self.ask(move |inner| async move { inner.swap("t/", id, change, false).await })
    }

    fn fact(&self, name: &str) -> Result<Option<Value>, StoreError> {
        let name = name.to_string();
        let found = self.ask(move |inner| async move { inner.read("f/", &name).await })?;
        Ok(found.map(|(_, value)| value))
    }

    fn facts(&self, prefix: &str) -> Result<Vec<(String, Value)>, StoreError> {
        let prefix = prefix.to_string();
        Ok(self.ask(move |inner| async move { inner.list("f/", &prefix, 0).await })?.1)
    }

    fn swap_fact(&self, name: &str, seen: Option<&Value>, new: Option<&Value>) -> Result<bool, StoreError> {
        let (name, change) = (name.to_string(), (seen.cloned(), new.cloned()));
        self.ask(move |inner| async move { inner.swap("f/", name, change, false).await })
    }

    fn swap_fact_leading(&self, name: &str, seen: Option<&Value>, new: Option<&Value>) -> Result<bool, StoreError> {
        let (name, change) = (name.to_string(), (seen.cloned(), new.cloned()));
        self.ask(move |inner| async move { inner.swap("f/", name, change, true).await })
    }

    fn since(&self, after: u64, within: Duration) -> Result<Since, StoreError> {
        Ok(self.inner.recent.since(after, within))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn leads(&self) -> bool {
        self.inner.leads()
    }

    fn replicas(&self) -> Option<&dyn Replicas> {
        Some(self)
    }

    fn dump(&self) -> Result<Dump, StoreError> {
        self.ask(|inner| async move { inner.dump().await.map(|(_, dump)| dump) })
    }

    fn fill(&self, dump: &Dump) -> Result<(), StoreError> {
        let dump = dump.clone();
        self.ask(move |inner| async move { inner.fill(dump).await })
    }
}

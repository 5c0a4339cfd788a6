//! How values stand in a store: JSON.

use super::StoreError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes and reads the values of one store.
#[derive(Clone, Debug, Default)]
pub struct Codec;

impl Codec {
    pub(super) fn read<T: DeserializeOwned>(&self, key: &str, bytes: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(bytes)
            .map_err(|error| StoreError::Damaged { what: key.to_string(), why: error.to_string() })
    }

    pub(super) fn write<T: Serialize>(&self, _key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(value).map_err(|error| StoreError::Io(error.to_string()))
    }
}

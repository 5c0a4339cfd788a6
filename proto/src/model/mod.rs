//! The parsed, always-valid form of what travels on the discovery stream.

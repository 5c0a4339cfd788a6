//! Scaffold: filled in by its own commit.

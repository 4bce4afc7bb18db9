//! Helpers shared by the outsider tests.

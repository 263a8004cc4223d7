//! From changes to one consistent, compiled snapshot.

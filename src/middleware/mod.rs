//! One Tower layer per file.

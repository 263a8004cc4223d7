//! Which endpoint next?

//! Which rule of a route applies to a request? Pure, and generic in what a rule leads to.

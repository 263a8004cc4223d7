//! Which rule of a route applies to a request? Pure, and generic in what a rule leads to: this room
//! must not know backends, filters or services.

mod matcher;
pub mod normalize;
mod precedence;
mod rewrite;
mod shadow;
mod split;
mod table;
#[cfg(test)]
mod testing;

pub use matcher::{RequestView, RouteError, compile_regex};
pub use precedence::Rank;
pub use rewrite::replace_prefix;
pub use shadow::shadows;
pub use split::WeightedChoice;
pub use table::{Entry, Found, RouteTable};

//! One Tower layer per file. Each knows its stage and nothing of sockets; `waypoint::stack` puts
//! them in order.

mod authorize;
mod balance;
mod body;
mod error;
mod filter;
mod gate;
mod record;
mod replay;
mod respond;
mod retry;
mod route;
mod sanitize;
mod series;
mod shed;
mod split;
mod stage;
mod timeout;

pub use authorize::Authorize;
pub use balance::Balance;
pub use body::{Body, BodyError};
pub use error::{ConnectFailure, Error, Side, from_client};
pub use filter::FilterLayer as Filter;
pub use record::{Record, Recorded};
pub use respond::Respond;
pub use retry::Retry;
pub use route::Route;
pub use sanitize::{Sanitize, remove_hop_by_hop};
pub use series::RecentSeries;
pub use shed::{Places, Shed};
pub use split::Split;
pub use stage::{
    Answered, Attempt, Clean, Context, Dispatch, Failed, Failure, Inbound, Outcome, Permitted, Reply, Routed, Selected, Tunnel,
};
pub use timeout::Timeout;

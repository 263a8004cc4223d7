//! The proxy over real sockets, in front of nameservers that do as they are told.

mod forwarding;
mod serving;
mod stand;

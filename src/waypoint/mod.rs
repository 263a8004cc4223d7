//! The waypoint: HBONE in, the stack, HBONE out.

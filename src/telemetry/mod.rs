//! What happened: metric handles, the access log, log set-up, response flags.

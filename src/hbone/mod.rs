//! The tunnel protocol: HTTP/2 CONNECT over mutual TLS.

//! A private Redis server.

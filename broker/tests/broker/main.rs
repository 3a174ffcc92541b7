//! The edge over real sockets: a broker, players who speak raw HTTP, and nodes that echo.

mod drain;
mod node;
mod refusals;
mod rest;
mod stage;
mod tunnels;

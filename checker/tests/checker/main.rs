//! The checker held against histories whose verdict is known.

mod faults;
mod online;
mod service;
mod tool;
mod valid;
mod void;

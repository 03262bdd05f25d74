//! What the flag programs share: cases as JSON lines, and a web service in which every request sees one
//! state of the flags.

pub mod cases;
pub mod service;

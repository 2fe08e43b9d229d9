//! The node's kernel: what is ours in it, read whole, changed one thing at a time.

pub mod desired;

//! A BGP speaker and route reflector.
pub mod wire;

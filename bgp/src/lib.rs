//! A BGP speaker and route reflector.

//! One value for each address family.

use std::ops::{Index, IndexMut};

use crate::wire::Family;

/// All families, in the order in which they are sent.
pub(crate) const FAMILIES: [Family; 2] = [Family::Ipv4Unicast, Family::Ipv6Unicast];

/// A value for each family.
#[derive(Debug, Default)]
pub(crate) struct PerFamily<T> {
    ipv4_unicast: T,
    ipv6_unicast: T,
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;

    fn index(&self, family: Family) -> &T {
        match family {
            Family::Ipv4Unicast => &self.ipv4_unicast,
            Family::Ipv6Unicast => &self.ipv6_unicast,
        }
    }
}

impl<T> IndexMut<Family> for PerFamily<T> {
    fn index_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::Ipv4Unicast => &mut self.ipv4_unicast,
            Family::Ipv6Unicast => &mut self.ipv6_unicast,
        }
    }
}

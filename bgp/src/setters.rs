//! The macro of setters, each with the name of its field.

/// Makes setters. An optional field takes the value itself or an `Option`; after `each` come lists, which take any
/// iterator.
macro_rules! setters {
    ($type:ident { $($field:ident: $value:ty,)* } each { $($list:ident: $item:ty,)* }) => {
        impl $type {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $field(mut self, $field: $value) -> Self {
                    self.$field = $field.into();
                    self
                }
            )*
            $(
                #[doc = concat!("Sets [`", stringify!($list), "`](field@Self::", stringify!($list), ").")]
                #[must_use]
                pub fn $list(mut self, $list: impl IntoIterator<Item = $item>) -> Self {
                    self.$list = $list.into_iter().collect();
                    self
                }
            )*
        }
    };
}
pub(crate) use setters;

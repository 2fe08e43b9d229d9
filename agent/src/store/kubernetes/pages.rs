//! Lists in pages, so that not all of a large cluster is in memory at a time.

use kube::api::ListParams;
use kube::core::ListMeta;

/// Objects a page.
const PAGE: u32 = 500;

/// Asks for the first page.
pub fn first(params: ListParams) -> ListParams {
    ListParams { limit: Some(PAGE), ..params }
}

/// Asks for the page after the one that a list was; whether there is one.
pub fn turn(params: &mut ListParams, list: &ListMeta) -> bool {
    params.continue_token = list.continue_.clone().filter(|token| !token.is_empty());
    params.continue_token.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_turned_to_the_last() {
        let mut page = first(ListParams::default().labels("a"));
        assert_eq!((page.limit, page.continue_token.as_deref()), (Some(500), None));
        let list =
            |token: Option<&str>| ListMeta { continue_: token.map(str::to_string), ..ListMeta::default() };
        assert!(turn(&mut page, &list(Some("more"))));
        assert_eq!(
            (page.continue_token.as_deref(), page.label_selector.as_deref()),
            (Some("more"), Some("a"))
        );
        assert!(!turn(&mut page, &list(Some(""))) && !turn(&mut page, &list(None)));
    }
}

//! Lists in pages, so that memory never holds all objects of a large cluster as JSON.

use kube::api::ListParams;
use kube::core::ListMeta;

/// The number of objects in a page.
const PAGE_SIZE: u32 = 500;

/// Returns the parameters of the request for the first page.
pub fn first(params: ListParams) -> ListParams {
    ListParams { limit: Some(PAGE_SIZE), ..params }
}

/// Sets the parameters to those for the page after `list`. Returns whether there is one.
pub fn next(params: &mut ListParams, list: &ListMeta) -> bool {
    params.continue_token = list.continue_.clone().filter(|token| !token.is_empty());
    params.continue_token.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_page_has_no_next_one() {
        let mut page = first(ListParams::default().labels("a"));
        assert_eq!((page.limit, page.continue_token.as_deref()), (Some(500), None));
        let list =
            |token: Option<&str>| ListMeta { continue_: token.map(str::to_string), ..ListMeta::default() };
        assert!(next(&mut page, &list(Some("more"))));
        assert_eq!(
            (page.continue_token.as_deref(), page.label_selector.as_deref()),
            (Some("more"), Some("a"))
        );
        assert!(!next(&mut page, &list(Some(""))) && !next(&mut page, &list(None)));
    }
}

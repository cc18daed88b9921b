//! placeholder
use crate::{registry::StoreOptions, store::ResultStore};
use celeriac_error::Result;
use std::sync::Arc;
pub(crate) const SCHEMES: &[&str] = &["db+sqlite"];
pub(crate) fn open(_url: &str, _options: StoreOptions) -> Result<Arc<dyn ResultStore>> {
    unimplemented!()
}

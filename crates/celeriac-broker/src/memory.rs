//! placeholder
use crate::{registry::TransportOptions, transport::Transport};
use celeriac_error::Result;
use std::sync::Arc;
pub(crate) const SCHEMES: &[&str] = &["memory"];
pub(crate) fn open(_url: &str, _options: TransportOptions) -> Result<Arc<dyn Transport>> {
    unimplemented!()
}

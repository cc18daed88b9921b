//! placeholder
use crate::{registry::TransportOptions, transport::Transport};
use celeriac_error::Result;
use std::sync::Arc;
pub(crate) const SCHEMES: &[&str] = &["redis", "rediss", "redis+socket"];
pub(crate) fn open(_url: &str, _options: TransportOptions) -> Result<Arc<dyn Transport>> {
    unimplemented!()
}

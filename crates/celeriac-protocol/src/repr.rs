//! `repr()` as Python and Celery print it: `argsrepr`, `kwargsrepr`, and results in log lines.
//!
//! Source of the rules: `celery.utils.saferepr`.

use celeriac_error::Result;

/// The longest `argsrepr` and `kwargsrepr` (`celery.app.amqp.AMQP.argsrepr_maxsize`).
pub const MAX_LENGTH: usize = 1024;

/// The deepest nesting that is printed (`task_repr_maxlevels`).
pub const MAX_LEVELS: usize = 3;

/// Prints the value of a JSON text (in Python's sense, kombu's tags included) as `saferepr` prints the Python
/// value that it stands for. `tuple` prints an outermost array as a tuple.
///
/// # Errors
/// [`Error::Decode`](celeriac_error::Error::Decode) when `json` is not JSON.
pub fn saferepr(json: &[u8], tuple: bool, max_length: usize, max_levels: Option<usize>) -> Result<String> {
    let _ = (json, tuple, max_length, max_levels);
    unimplemented!("protocol")
}

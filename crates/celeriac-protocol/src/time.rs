//! Points in time as Python and Celery write them.
use celeriac_error::Result;
use jiff::Timestamp;
/// ISO 8601; without an offset it is UTC.
pub fn parse_datetime(text: &str) -> Result<Timestamp> {
    let _ = text;
    unimplemented!()
}
/// As Python's `isoformat` prints an aware UTC datetime.
pub fn format_timestamp(at: Timestamp) -> String {
    let _ = at;
    unimplemented!()
}
/// This moment, as [`format_timestamp`] prints it.
pub fn now() -> String {
    format_timestamp(Timestamp::now())
}

//! A real redis-server on a free port, stopped when it is dropped.

//! What every transport must do, run on each by its own short test.

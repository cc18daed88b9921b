//! What every native result store must do, run on each by its own short test.

//! Links the addon to Node-API.

fn main() {
    napi_build::setup();
}

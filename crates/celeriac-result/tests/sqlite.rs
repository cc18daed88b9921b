//! The contract on an SQLite file, and what is SQLAlchemy's own: tables, columns, old files.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use celeriac_protocol::TaskMeta;
use celeriac_result::{ResultStore, StoreOptions};
use celeriac_testkit::result_store_contract::{
    Place, eventually, meta, open, request, store_all, success, within,
};
use rusqlite::Connection;
use serde_json::{Value, json};

/// A file in a folder of its own.
struct File(PathBuf);

impl File {
    fn path(&self) -> PathBuf {
        self.0.join("results.db")
    }

    /// A connection beside the store's, such as Python's is.
    fn connection(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[async_trait]
impl Place for File {
    const EXPIRES: bool = false;
    const CLEANS_UP: bool = true;
    const KEEPS_GROUP: bool = false;

    async fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("celeriac-results-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn url(&self) -> String {
        format!("db+sqlite:///{}", self.path().display())
    }
}

celeriac_testkit::result_store_contract!(File);

//! temporary
use std::process::{Child, Command, Stdio};
pub struct Server { child: Child, pub port: u16, pub dir: std::path::PathBuf, args: Vec<String> }
impl Server {
    pub async fn start(args: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = std::env::temp_dir().join(format!("celeriac-redis-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        let child = Self::spawn(port, &dir, &args);
        let s = Self { child, port, dir, args };
        s.ready().await;
        s
    }
    fn spawn(port: u16, dir: &std::path::Path, args: &[String]) -> Child {
        Command::new("redis-server").args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir).args(args).stdout(Stdio::null()).spawn().unwrap()
    }
    pub async fn ready(&self) {
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() { tokio::time::sleep(std::time::Duration::from_millis(5)).await; }
    }
    pub fn url(&self) -> String { format!("redis://127.0.0.1:{}/0", self.port) }
    pub fn stop(&mut self) { let _ = self.child.kill(); let _ = self.child.wait(); }
    pub async fn restart(&mut self) { self.stop(); self.child = Self::spawn(self.port, &self.dir, &self.args); self.ready().await; }
}
impl Drop for Server { fn drop(&mut self) { self.stop(); let _ = std::fs::remove_dir_all(&self.dir); } }

//! Clients that mean no good, or do not know better.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use tonic::{Code, transport::Endpoint};
use xvs_control::proto::v1::{self, load_balancer_service_client::LoadBalancerServiceClient};

use super::{Daemon, apply, entry};

impl Daemon {
    /// The path of its socket.
    fn path(&self) -> std::path::PathBuf {
        self._folder.path().join("xvsd.sock")
    }

    /// A client with a connection of its own.
    async fn another(&self) -> LoadBalancerServiceClient<tonic::transport::Channel> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.path().display())).unwrap();
        LoadBalancerServiceClient::new(endpoint.connect().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_bound_wait_and_those_that_are_served_go_on() {
    let daemon = Daemon::start().await;
    let mut known = daemon.client();
    known.get_settings(v1::GetSettingsRequest {}).await.unwrap();
    // The backlog takes some more, which nobody answers.
    let silent: Vec<_> = (0..270).map(|_| UnixStream::connect(daemon.path()).unwrap()).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    known.get_settings(v1::GetSettingsRequest {}).await.unwrap();
    let mut late = UnixStream::connect(daemon.path()).unwrap();
    late.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    late.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut octet = [0];
    assert!(late.read(&mut octet).is_err(), "nobody has a place for it");
    drop(silent);
    late.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(late.read(&mut octet).unwrap(), 1, "it gets a place when others leave");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_its_own_connection_only() {
    let daemon = Daemon::start().await;
    let garbage: [&[u8]; 4] = [
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 4096],
        b"\n",
    ];
    for octets in garbage {
        let mut stream = UnixStream::connect(daemon.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(octets).ok();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        assert!(answer.len() < 1000, "it is not served");
        daemon.another().await.get_settings(v1::GetSettingsRequest {}).await.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_and_changes_nothing() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    client.apply(apply(&[entry(80, &[11])])).await.unwrap();
    let name = "n".repeat(5 << 20);
    let setting = v1::Setting { name, value: "1".to_owned() };
    let request = v1::ApplyRequest { settings: vec![setting], ..apply(&[]) };
    let refused = client.apply(request).await.unwrap_err();
    let codes = [Code::ResourceExhausted, Code::OutOfRange];
    assert!(codes.contains(&refused.code()), "{refused:?}");
    assert_eq!(super::list(&mut client).await.len(), 1);
}

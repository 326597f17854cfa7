//! What probes find on the wire: each kind against servers that are well, sick, silent and absent, asked
//! by a daemon that runs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, rdata::A},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, pem::PemObject as _},
    },
};
use xvs_control::proto::v1::{self, health_check_service_client::HealthCheckServiceClient};

/// How long a test waits for what must come, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that checks real servers on loopback.
struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Daemon {
    /// Starts with these services.
    fn new(services: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let text = format!(
            "daemon.flows = 1024\n[api]\nsocket = \"{}\"\n{}",
            socket.display(),
            services.replace("FOLDER", folder.path().to_str().unwrap())
        );
        let config = folder.path().join("x.toml");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xvsd"));
        let child = command.arg("--config").arg(config).stderr(Stdio::null()).spawn().unwrap();
        Self { child, folder }
    }

    /// What was found about each real server of the only service, by port: up, and what was said.
    async fn found(&self) -> Vec<(u32, bool, Vec<String>)> {
        let url = format!("unix://{}", self.folder.path().join("s").display());
        let Ok(channel) = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await
        else {
            return Vec::new();
        };
        let mut client = HealthCheckServiceClient::new(channel);
        let Ok(found) = client.list_health(v1::ListHealthRequest::default()).await else {
            return Vec::new();
        };
        let found = found.into_inner().services;
        let reals = found.iter().flat_map(|service| &service.real_servers);
        let told = |real: &v1::RealServerHealth| {
            let notes = real.checks.iter().map(|check| check.last_note.clone()).collect();
            (real.real_server.clone().unwrap().port.unwrap(), real.up, notes)
        };
        reals.map(told).collect()
    }

    /// Waits until every real server is as it must be; says what was found.
    async fn wait(&self, wanted: &[(u16, bool)]) -> Vec<(u32, bool, Vec<String>)> {
        let start = Instant::now();
        loop {
            let found = self.found().await;
            let is = |&(port, up): &(u16, bool)| {
                let real = found.iter().find(|real| real.0 == u32::from(port));
                real.is_some_and(|real| real.1 == up && real.2.iter().all(|note| !note.is_empty()))
            };
            if wanted.iter().all(is) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "{found:?}, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A service whose real servers are these ports of loopback, checked so; they begin down where they
/// must come up, and up where they must go down.
fn service(ports: &[(u16, bool)], check: &str) -> String {
    let wanted = ports[0].1;
    let mut text =
        String::from("[[service]]\nprotocol = \"tcp\"\naddress = \"10.0.0.1\"\nport = 80\n");
    for (port, up) in ports {
        assert_eq!(*up, wanted, "one service, one way to go");
        text += &format!(
            "[[service.real]]\naddress = \"127.0.0.1\"\nport = {port}\nmethod = \"nat\"\n"
        );
    }
    text + &format!(
        "[service.health]\nstart_down = {wanted}\n[[service.health.check]]\n{check}\n\
         interval_milliseconds = 100\ntimeout_milliseconds = 2000\nrise = 2\nfall = 2\n"
    )
}

/// Answers each connection with what `answer` makes of what came first; then closes.
fn tcp(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let mut room = [0; 4096];
            let octets = stream.read(&mut room).unwrap_or_default();
            stream.write_all(&answer(&room[..octets])).ok();
        }
    });
    port
}

/// Accepts and never says a word.
fn silent() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let kept: Vec<_> = listener.incoming().collect();
        drop(kept);
    });
    port
}

/// A port where nobody listens.
fn nobody() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Answers HTTP with this status and body.
fn http(status: u16, body: &'static str) -> u16 {
    tcp(move |request| {
        let text = String::from_utf8_lossy(request);
        let good =
            text.starts_with("GET /up?x=1 HTTP/1.1\r\n") && text.contains("\r\nhost: a.test\r\n");
        let status = if good { status } else { 400 };
        let length = body.len();
        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    })
}

async fn expect(ports: &[(u16, bool)], check: &str, note: &str) {
    let found = Daemon::new(&service(ports, check)).wait(ports).await;
    for (_, _, notes) in found {
        assert!(notes[0].contains(note), "{notes:?} does not say {note}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_and_http() {
    const ASK: &str = "kind = \"http\"\npath = \"/up?x=1\"\nhost = \"a.test\"\nbody = \"well\"";
    expect(&[(silent(), true)], "kind = \"tcp\"", "connected").await;
    expect(&[(nobody(), false)], "kind = \"tcp\"", "connection refused").await;
    expect(&[(http(204, ""), true)], &ASK.replace("body = \"well\"", ""), "HTTP 204").await;
    expect(&[(http(200, "all is well"), true)], ASK, "HTTP 200").await;
    expect(&[(http(200, "all is bad"), false)], ASK, "`well` is not in the body").await;
    expect(&[(http(500, "well"), false)], ASK, "HTTP 500").await;
    expect(&[(tcp(|_| b"SSH-2.0-x\r\n".to_vec()), false)], ASK, "HTTP: invalid").await;
    expect(&[(tcp(|_| Vec::new()), false)], ASK, "HTTP: connection closed").await;
    expect(&[(silent(), false)], ASK, "no answer within 2s").await;
}

/// A server of TLS with a certificate for `a.test`; says where its authority stands.
async fn tls(folder: &Path) -> u16 {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    fs::write(folder.join("ca.pem"), made.cert.pem()).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    fs::write(folder.join("other.pem"), other.cert.pem()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut room = [0; 4096];
                let asked = stream.read(&mut room).await.unwrap_or_default();
                assert!(asked > 0, "nothing was asked");
                stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n").await.ok();
                stream.shutdown().await.ok();
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn https_judges_certificates_as_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let port = tls(folder.path()).await;
    let ask = |host: &str, authority: &str| {
        let authority = authority.replace("CA", folder.path().to_str().unwrap());
        format!("kind = \"https\"\nhost = \"{host}\"\nauthority = \"{authority}\"")
    };
    expect(&[(port, true)], &ask("a.test", "CA/ca.pem"), "HTTP 200").await;
    expect(&[(port, true)], &ask("b.test", "any"), "HTTP 200").await;
    expect(&[(port, false)], &ask("b.test", "CA/ca.pem"), "not valid for name").await;
    expect(&[(port, false)], &ask("a.test", "CA/other.pem"), "TLS: invalid peer certificate").await;
    expect(&[(port, false)], &ask("a.test", "CA/none.pem"), "no such file").await;
    expect(&[(http(200, ""), false)], &ask("a.test", "any"), "TLS: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_asks_the_standard_health_service() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("sick", tonic_health::ServingStatus::NotServing).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    expect(&[(port, true)], "kind = \"grpc\"", "SERVING").await;
    expect(&[(port, false)], "kind = \"grpc\"\nservice = \"sick\"", "NOT_SERVING").await;
    expect(&[(port, false)], "kind = \"grpc\"\nservice = \"who\"", "`who` is not known").await;
    expect(&[(http(200, ""), false)], "kind = \"grpc\"", "gRPC: ").await;
}

/// Answers each datagram with what `answer` makes of it, if anything.
fn udp(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut room = [0; 4096];
        while let Ok((octets, from)) = socket.recv_from(&mut room) {
            if let Some(answer) = answer(&room[..octets]) {
                socket.send_to(&answer, from).unwrap();
            }
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_and_dns() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ask = "kind = \"udp\"\nsend = \"ping\"";
    expect(&[(udp(|_| None), true)], ask, "not refused").await;
    expect(&[(free, false)], ask, "connection refused").await;
    let ask = "kind = \"udp\"\nsend = \"ping\"\nexpect = \"pong\"";
    expect(&[(udp(|sent| (sent == b"ping").then(|| b"a pong".to_vec())), true)], ask, "answered")
        .await;
    expect(&[(udp(|_| Some(b"what?".to_vec())), false)], ask, "is not in the answer").await;
    let dns = |code: ResponseCode, answers: usize| {
        udp(move |query| {
            let mut message = Message::from_vec(query).unwrap();
            message.set_message_type(MessageType::Response).set_response_code(code);
            let name = message.queries()[0].name().clone();
            for _ in 0..answers {
                let data = RData::A(A::new(192, 0, 2, 1));
                message.add_answer(Record::from_rdata(name.clone(), 60, data));
            }
            Some(message.to_vec().unwrap())
        })
    };
    let ask = "kind = \"dns\"\nname = \"a.test\"";
    expect(&[(dns(ResponseCode::NoError, 2), true)], ask, "2 A records").await;
    expect(&[(dns(ResponseCode::NoError, 0), false)], ask, "no A record").await;
    expect(&[(dns(ResponseCode::ServFail, 0), false)], ask, "Server Failure").await;
    expect(&[(udp(|_| Some(vec![0; 5])), false)], ask, "DNS: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_scripts() {
    let ask = "kind = \"agent\"";
    expect(&[(tcp(|_| b"75%\n".to_vec()), true)], ask, "75%").await;
    expect(&[(tcp(|_| b"down # full\n".to_vec()), false)], ask, "down # full").await;
    expect(&[(nobody(), true)], ask, "silent: connection refused").await;
    let script =
        |text: &str| format!("kind = \"script\"\ncommand = [\"/bin/sh\", \"-c\", '{text}']");
    let say = "echo $XVS_PROTOCOL $XVS_VIP $XVS_VPORT $XVS_REAL";
    expect(&[(81, true)], &script(say), "tcp 10.0.0.1 80 127.0.0.1").await;
    expect(&[(81, false)], &script("echo sick; exit 3"), "ended with 3: sick").await;
    let endless = "sleep 1000 & echo $! >> FOLDER/pids; wait";
    let daemon = Daemon::new(&service(&[(81, false)], &script(endless)));
    let found = daemon.wait(&[(81, false)]).await;
    assert!(found[0].2[0].contains("no answer within 2s"), "{found:?}");
    let pids = fs::read_to_string(daemon.folder.path().join("pids")).unwrap();
    let first = pids.lines().next().unwrap();
    assert!(!Path::new("/proc").join(first).join("cwd").exists(), "what it started runs on");
}

/// Needs the right to send ICMP: root, or a group of net.ipv4.ping_group_range.
#[tokio::test(flavor = "multi_thread")]
async fn icmp() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    expect(&[(81, true)], "kind = \"icmp\"", "answered").await;
}

//! Captures over the API: asked for well and badly, so many at once, and gone with their client.

use std::time::Duration;

use dataplane::{
    packet::{HEADROOM, Packet},
    verdict::{DeviceId, DropReason, Verdict},
};
use tonic::{Code, Streaming};
use xvs_control::proto::v1::{self, operations_service_client::OperationsServiceClient};

use super::{Daemon, field, reason};

impl Daemon {
    async fn capture(
        &self,
        request: v1::CaptureRequest,
    ) -> Result<Streaming<v1::CaptureResponse>, tonic::Status> {
        let mut client = OperationsServiceClient::new(self.channel.clone());
        client.capture(request).await.map(tonic::Response::into_inner)
    }

    /// Does what a worker does with a packet that it drops.
    fn see(&self, octets: usize) {
        let snapshot = self.engine.lock().director.compile();
        let mut memory = vec![7; HEADROOM + octets];
        let end = memory.len();
        let mut burst = [Packet::new(&mut memory, HEADROOM, end, DeviceId(0))];
        for capture in &snapshot.captures {
            let held = capture.hold(&burst, 5);
            burst[0].verdict = Verdict::Drop(DropReason::NoRoute);
            capture.keep(held, &burst);
        }
    }
}

#[tokio::test]
async fn a_capture_is_a_pcapng_file_in_pieces() {
    let daemon = Daemon::start().await;
    let request = v1::CaptureRequest { packets: 3, snap_length: 100, ..Default::default() };
    let mut stream = daemon.capture(request).await.unwrap();
    let (mut file, mut last) = (Vec::new(), v1::CaptureResponse::default());
    let first = stream.message().await.unwrap().unwrap();
    file.extend(first.pcapng);
    for octets in [60, 200, 300, 400] {
        daemon.see(octets);
    }
    while let Some(message) = stream.message().await.unwrap() {
        file.extend(&message.pcapng);
        last = message;
    }
    assert_eq!((last.packets, last.lost), (3, 0), "it ends by itself");
    let capture = dataplane::io::pcap::capture::Capture::from_octets(file.clone()).unwrap();
    let lengths: Vec<_> =
        capture.records().map(|record| (record.data.len(), record.original)).collect();
    assert_eq!(lengths, [(60, 60), (100, 200), (100, 300)]);
    let comment = b"#1 dropped, no-route";
    assert!(file.windows(comment.len()).any(|window| window == comment));
    let captures = || daemon.engine.lock().director.compile().captures.len();
    for _ in 0..200 {
        if captures() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the capture goes on");
}

#[tokio::test]
async fn captures_are_few_and_end_with_their_clients() {
    let daemon = Daemon::start().await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let request = v1::CaptureRequest { lines: true, ..Default::default() };
        streams.push(daemon.capture(request).await.unwrap());
    }
    let full = daemon.capture(v1::CaptureRequest::default()).await.unwrap_err();
    assert_eq!((full.code(), reason(&full).as_str()), (Code::ResourceExhausted, "CAPTURES"));
    daemon.see(100);
    let told = loop {
        let message = streams[0].message().await.unwrap().unwrap();
        if let Some(line) = message.lines.first() {
            break line.clone();
        }
    };
    assert!(told.contains(" host in  #1 dropped, no-route: "), "{told}");
    drop(streams);
    for _ in 0..500 {
        if daemon.capture(v1::CaptureRequest::default()).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("places are not given back");
}

#[tokio::test]
async fn a_refused_capture_names_its_field() {
    let daemon = Daemon::start().await;
    for (request, path) in [
        (v1::CaptureRequest { snap_length: 63, ..Default::default() }, "snap_length"),
        (v1::CaptureRequest { snap_length: 9217, ..Default::default() }, "snap_length"),
        (
            v1::CaptureRequest { client_address: "x".to_owned(), ..Default::default() },
            "client_address",
        ),
        (v1::CaptureRequest { real_port: Some(65536), ..Default::default() }, "real_port"),
        (v1::CaptureRequest { interface: "eth9".to_owned(), ..Default::default() }, "interface"),
        (
            v1::CaptureRequest {
                duration: Some(prost_types::Duration { seconds: 86_401, nanos: 0 }),
                ..Default::default()
            },
            "duration",
        ),
    ] {
        let refused = daemon.capture(request).await.unwrap_err();
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, path));
    }
}

//! A gateway whose directory can't be reached: it is up, says why it is not ready, and goes when it is told to.

use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;

use super::*;
use crate::directory::Policy;
use crate::peer::dial;
use crate::wire::peer::{Hello, Purpose};

const PATIENCE: Duration = Duration::from_secs(10);

fn settings() -> Settings {
    let any = || String::from("127.0.0.1:0");
    Settings {
        id: String::from("gw-1"),
        directory: vec![String::from("127.0.0.1:1")],
        listen_clients: any(),
        listen_api: any(),
        listen_peer: any(),
        ..Settings::default()
    }
}

#[tokio::test]
async fn without_a_directory_a_gateway_is_up_but_not_ready_and_stops_when_told() {
    let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
    let running = Gateway::start(settings(), stop.clone(), kill).await.unwrap();
    let http = Client::new();
    let get = async |address: SocketAddr, path: &str| {
        let url = format!("http://{address}{path}");
        http.request(Method::GET, &url, HeaderMap::new(), Bytes::new(), PATIENCE).await.unwrap()
    };
    assert_eq!(get(running.api, "/livez").await.status, StatusCode::OK);
    let ready = get(running.api, "/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&ready.body).contains("no session"), "{:?}", ready.body);
    assert_eq!(get(running.clients, "/ws").await.status, StatusCode::UPGRADE_REQUIRED);
    let cluster = settings().cluster;
    let hello = Hello::new(cluster, "node 1", Purpose::Identify);
    let dialed = dial(&running.peer.to_string(), &hello).await.unwrap();
    assert_eq!((dialed.name.as_str(), dialed.nonce.len()), ("gateway gw-1", 16));
    stop.cancel();
    timeout(PATIENCE, running.wait()).await.expect("it ends in time").unwrap();
}

#[tokio::test]
async fn a_gateway_ends_at_once_when_it_is_killed() {
    let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
    let running = Gateway::start(settings(), stop, kill.clone()).await.unwrap();
    kill.cancel();
    timeout(PATIENCE, running.wait()).await.expect("it ends in time").unwrap();
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused_in_words() {
    let start = async |change: fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        let tokens = (CancellationToken::new(), CancellationToken::new());
        Gateway::start(settings, tokens.0, tokens.1).await.expect_err("refused").to_string()
    };
    assert!(start(|settings| settings.policy = Policy::multi(0)).await.contains("at least one connection"));
    assert!(start(|settings| settings.id = String::new()).await.contains("gateway id"));
    assert!(start(|settings| settings.directory.clear()).await.contains("directory"));
    assert!(start(|settings| settings.lease = Duration::from_secs(1)).await.contains("3 to 60 s"));
    assert!(start(|settings| settings.listen_api = String::from("nowhere")).await.contains("can't listen on nowhere"));
}

//! A burst of pushes from a server with Ably's own codec.

use guest_test::Reply;
use platform_client::{ClientType, PlatformCredentials, RequestCancellation, RequestLimits};

use super::*;
use crate::tests::push::server;

#[test]
fn thousands_of_pushes_are_queued_without_a_gap() {
    let realtime = server::Server::start();
    let platform = guest_test::Server::start(|_| Reply::bytes(server::REQUEST));
    let (url, token) = (platform.url(), "t".to_owned());
    let credentials = PlatformCredentials {
        addresses: url.into(),
        token,
        bypass: None,
        client_session: "r".into(),
    };
    let time = Duration::from_secs(60);
    let limits = RequestLimits { whole: Some(time), silence: time, redirects: 0 };
    let caller =
        PlatformClient::of(ClientType::Runner, &credentials, limits, &RequestCancellation::new())
            .unwrap();
    let hosts = Hosts::new(&realtime.address(), &realtime.address()).unwrap();
    let subscription = subscribe("a/b", &hosts, caller).unwrap();
    realtime.wait("attach", 1);

    let messages = vec![json!({"name": "job", "data": {}}); 100];
    for _ in 0..40 {
        let frame = json!({"channel": "runner-group:a/b"});
        realtime.command(&json!({"op": "publish", "messages": messages, "frame": frame}));
    }
    // The client answers this after all messages before it.
    realtime.send(json!({"action": 17}));
    realtime.wait("auth", 1);

    let events: Vec<_> = subscription.receiver().try_iter().collect();
    let is_message = |event: &&Event| matches!(event, Event::Message(_));
    assert_eq!(events.iter().filter(is_message).count(), 4000);
    assert!(!events.iter().any(|event| matches!(event, Event::Gap(_))));
}

//! A fake platform that follows the contract, in memory. Every call of the guest has a default answer;
//! the next answers to a call can be scripted.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use base::sync::Mutex;
use serde_json::{Value, json};

use crate::http::{Reply, Request};
use crate::server::Server;

/// The path of the guest's calls, without the call's name.
const HOOKS: &str = "/api/webhooks/agent/";

/// A platform for one run.
pub struct FakePlatform {
    /// The HTTP server.
    pub server: Server,
    script: Arc<Mutex<HashMap<String, VecDeque<Reply>>>>,
    defaults: Arc<Mutex<Defaults>>,
}

/// The state behind the default answers.
#[derive(Default)]
struct Defaults {
    /// Prepare calls answer that the content exists.
    has_all: bool,
    /// Batches of events that contain this are rejected.
    poison: Option<String>,
    /// The sequence numbers of the accepted events.
    accepted: Vec<u64>,
}

impl FakePlatform {
    /// Starts a platform.
    pub fn start() -> FakePlatform {
        let script: Arc<Mutex<HashMap<String, VecDeque<Reply>>>> = Arc::default();
        let defaults: Arc<Mutex<Defaults>> = Arc::default();
        let (scripted, current) = (Arc::clone(&script), Arc::clone(&defaults));
        let server = Server::start(move |request| {
            let call = request.target().trim_start_matches(HOOKS).to_owned();
            let next = scripted.lock().get_mut(&call).and_then(VecDeque::pop_front);
            next.unwrap_or_else(|| default_answer(&call, request, &mut current.lock()))
        });
        FakePlatform { server, script, defaults }
    }

    /// Scripts the next answer to a call (`events`, `heartbeat`, `/upload/…`). Scripted answers are used
    /// in order.
    pub fn answer(&self, call: &str, reply: Reply) {
        self.script.lock().entry(call.to_owned()).or_default().push_back(reply);
    }

    /// Makes prepare calls answer that the content exists.
    pub fn pretend_to_have_all(&self) {
        self.defaults.lock().has_all = true;
    }

    /// Rejects batches of events that contain `poison`.
    pub fn reject_events_with(&self, poison: &str) {
        self.defaults.lock().poison = Some(poison.to_owned());
    }

    /// The sequence numbers of the accepted events, in the order of arrival.
    pub fn accepted_sequences(&self) -> Vec<u64> {
        self.defaults.lock().accepted.clone()
    }

    /// The requests to a call so far.
    pub fn calls(&self, call: &str) -> Vec<Request> {
        self.server.requests_to(&format!("{HOOKS}{call}"))
    }

    /// The JSON bodies of a call so far.
    pub fn bodies(&self, call: &str) -> Vec<Value> {
        self.calls(call).iter().map(Request::json).collect()
    }

    /// The PUT requests so far.
    pub fn uploads(&self) -> Vec<Request> {
        let requests = self.server.requests().into_iter();
        requests.filter(|request| request.method == "PUT").collect()
    }

    /// The events of all requests in the order of arrival, including repeated ones.
    pub fn events(&self) -> Vec<Value> {
        let batches = self.bodies("events").into_iter();
        batches.flat_map(|body| body["events"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// The sequence numbers of [`Self::events`].
    pub fn sequences(&self) -> Vec<u64> {
        self.events().iter().map(|event| event["sequenceNumber"].as_u64().unwrap()).collect()
    }

    /// All requests as one text, to search in.
    pub fn everything(&self) -> String {
        let requests = self.server.requests();
        let texts = requests.iter().map(|request| {
            format!(
                "{} {:?} {}",
                request.path,
                request.headers,
                String::from_utf8_lossy(&request.body)
            )
        });
        texts.collect::<Vec<_>>().join("\n")
    }
}

fn default_answer(call: &str, request: &Request, state: &mut Defaults) -> Reply {
    let body = request.json();
    // Upload URLs use the address that the client used.
    let host = request.header("host").unwrap_or_default();
    let upload = |name: &str| format!("http://{host}/upload/{name}?signature=presigned-secret");
    match call {
        "heartbeat" => Reply::json(&json!({ "ok": true })),
        "events" => {
            let text = String::from_utf8_lossy(&request.body);
            if state.poison.as_ref().is_some_and(|poison| text.contains(poison)) {
                return Reply::refusal(400, "bad event");
            }
            let events = body["events"].as_array().cloned().unwrap_or_default();
            let sequences = events.iter().map(|event| event["sequenceNumber"].as_u64().unwrap());
            let sequences: Vec<u64> = sequences.collect();
            state.accepted.extend(&sequences);
            Reply::json(&json!({
                "received": sequences.len(),
                "firstSequence": sequences.first(),
                "lastSequence": sequences.last(),
            }))
        }
        "telemetry" => Reply::json(&json!({ "success": true, "id": "t1" })),
        "checkpoints/prepare-history" if state.has_all => Reply::json(&json!({ "existing": true })),
        "checkpoints/prepare-history" => Reply::json(&json!({
            "existing": false, "presignedUrl": upload("history"), "encoding": body["encoding"],
        })),
        "checkpoints" => Reply::json(&json!({ "checkpointId": "c1" })),
        "checkpoints/partial/prepare" => Reply::json(&json!({ "accepted": true })),
        "checkpoints/partial" => Reply::json(&json!({ "checkpointId": "p1" })),
        "warnings" => Reply::json(&json!({ "success": true })),
        "storages/prepare" => Reply::json(&prepared(&body, state.has_all, &upload)),
        "storages/commit" => {
            Reply::json(&json!({ "success": true, "versionId": body["versionId"] }))
        }
        _ if request.method == "PUT" => Reply::status(200),
        _ => Reply::refusal(404, "no such call"),
    }
}

fn prepared(body: &Value, known: bool, upload: &dyn Fn(&str) -> String) -> Value {
    let name = body["storageId"].as_str().or(body["storageName"].as_str()).unwrap_or_default();
    let version = format!("version-of-{name}");
    if known && body["force"] != true {
        return json!({ "versionId": version, "existing": true });
    }
    json!({
        "versionId": version,
        "existing": false,
        "uploads": {
            "archive": { "presignedUrl": upload(&format!("{name}/archive")) },
            "manifest": { "presignedUrl": upload(&format!("{name}/manifest")) },
        },
    })
}

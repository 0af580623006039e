//! The platform as its contract says, in memory: every guest call has a sensible answer, and the
//! next answers to a path can be scripted.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::http::{Reply, Request};
use crate::server::Server;

/// Where the guest's calls go, without the name of the call.
const HOOKS: &str = "/api/webhooks/agent/";

/// A platform that one run talks to.
pub struct FakePlatform {
    /// What is behind it.
    pub server: Server,
    script: Arc<Mutex<HashMap<String, VecDeque<Reply>>>>,
    mood: Arc<Mutex<Mood>>,
}

/// What the platform makes of requests that have no scripted answer.
#[derive(Default)]
struct Mood {
    /// It has everything that is prepared already.
    knows: bool,
    /// It refuses batches of events in which this is.
    poison: Option<String>,
    /// The numbers of the events that it took.
    taken: Vec<u64>,
}

impl FakePlatform {
    /// Starts one.
    pub fn start() -> FakePlatform {
        let script: Arc<Mutex<HashMap<String, VecDeque<Reply>>>> = Arc::default();
        let mood: Arc<Mutex<Mood>> = Arc::default();
        let (scripted, current) = (Arc::clone(&script), Arc::clone(&mood));
        let server = Server::start(move |request| {
            let call = request.target().trim_start_matches(HOOKS).to_owned();
            let next = scripted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_mut(&call)
                .and_then(VecDeque::pop_front);
            next.unwrap_or_else(|| {
                usual(&call, request, &mut current.lock().unwrap_or_else(PoisonError::into_inner))
            })
        });
        FakePlatform { server, script, mood }
    }

    /// The next answer to a call (`events`, `heartbeat`, `/upload/…`) that has no scripted one yet.
    pub fn answer(&self, call: &str, reply: Reply) {
        self.script
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(call.to_owned())
            .or_default()
            .push_back(reply);
    }

    /// From now on everything that is prepared is known already.
    pub fn know_everything(&self) {
        self.mood.lock().unwrap_or_else(PoisonError::into_inner).knows = true;
    }

    /// From now on batches of events with this in them are refused.
    pub fn refuse_events_with(&self, poison: &str) {
        self.mood.lock().unwrap_or_else(PoisonError::into_inner).poison = Some(poison.to_owned());
    }

    /// The numbers of the events that were taken, in that order.
    pub fn taken_sequences(&self) -> Vec<u64> {
        self.mood.lock().unwrap_or_else(PoisonError::into_inner).taken.clone()
    }

    /// The requests of a call so far.
    pub fn calls(&self, call: &str) -> Vec<Request> {
        self.server.requests_to(&format!("{HOOKS}{call}"))
    }

    /// The bodies of a call so far.
    pub fn bodies(&self, call: &str) -> Vec<Value> {
        self.calls(call).iter().map(Request::json).collect()
    }

    /// What was uploaded: path and body.
    pub fn uploads(&self) -> Vec<Request> {
        let requests = self.server.requests().into_iter();
        requests.filter(|request| request.method == "PUT").collect()
    }

    /// All events of all requests, in the order in which they came, those sent twice twice.
    pub fn events(&self) -> Vec<Value> {
        let batches = self.bodies("events").into_iter();
        batches.flat_map(|body| body["events"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// The sequence numbers of all events that came.
    pub fn sequences(&self) -> Vec<u64> {
        self.events().iter().map(|event| event["sequenceNumber"].as_u64().unwrap()).collect()
    }

    /// Every byte that ever came, for a search.
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

fn usual(call: &str, request: &Request, mood: &mut Mood) -> Reply {
    let body = request.json();
    // The server's own address is whatever the client calls it.
    let host = request.header("host").unwrap_or_default();
    let upload = |name: &str| format!("http://{host}/upload/{name}?signature=presigned-secret");
    match call {
        "heartbeat" => Reply::json(&json!({ "ok": true })),
        "events" => {
            let text = String::from_utf8_lossy(&request.body);
            if mood.poison.as_ref().is_some_and(|poison| text.contains(poison)) {
                return Reply::refusal(400, "bad event");
            }
            let events = body["events"].as_array().cloned().unwrap_or_default();
            let sequences = events.iter().map(|event| event["sequenceNumber"].as_u64().unwrap());
            let sequences: Vec<u64> = sequences.collect();
            mood.taken.extend(&sequences);
            Reply::json(&json!({
                "received": sequences.len(),
                "firstSequence": sequences.first(),
                "lastSequence": sequences.last(),
            }))
        }
        "telemetry" => Reply::json(&json!({ "success": true, "id": "t1" })),
        "checkpoints/prepare-history" if mood.knows => Reply::json(&json!({ "existing": true })),
        "checkpoints/prepare-history" => Reply::json(&json!({
            "existing": false, "presignedUrl": upload("history"), "encoding": body["encoding"],
        })),
        "checkpoints" => Reply::json(&json!({ "checkpointId": "c1" })),
        "checkpoints/partial/prepare" => Reply::json(&json!({ "accepted": true })),
        "checkpoints/partial" => Reply::json(&json!({ "checkpointId": "p1" })),
        "warnings" => Reply::json(&json!({ "success": true })),
        "storages/prepare" => Reply::json(&prepared(&body, mood.knows, &upload)),
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

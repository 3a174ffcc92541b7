//! The AsyncAPI document (`protocol/asyncapi.json`) is what the golden frames and the decoders say: fields and types from
//! the frames, and a field is required exactly if nobody can read the frame without it. A wire change makes this test
//! fail; `INSTA_UPDATE=always cargo test -p mlms-protocol asyncapi` writes the document anew.

use std::collections::BTreeMap;

use mlms_protocol::lobby::{Member, Settings};
use mlms_protocol::reply::encode_reply;
use mlms_protocol::{
    Class, Encoding, ErrorCode, JoinStatus, Limits, MemberRole, NoticeCode, Reconnect, Request, ServerFrame,
};
use serde_json::{Map, Value, json};

use crate::samples;

type Reads = Box<dyn Fn(&Value) -> bool>;

/// The frames of one kind of message.
#[derive(Default)]
struct Message {
    frames: Vec<Value>,
    /// Whether a frame can be read.
    reads: Option<Reads>,
}

type Messages = BTreeMap<String, Message>;

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn commands() -> Messages {
    let mut messages = Messages::new();
    for (_, request) in samples::requests() {
        let frame = parse(&request.encode(Encoding::Json));
        let message = messages.entry(frame["op"].as_str().unwrap().to_owned()).or_default();
        message.frames.push(frame);
        message.reads =
            Some(Box::new(|frame| Request::decode(Encoding::Json, frame.to_string().as_bytes()).is_ok()));
    }
    messages
}

fn events() -> Messages {
    let mut messages = Messages::new();
    for (_, event) in samples::events() {
        let frame = parse(&event.encode(Encoding::Json));
        let message = messages.entry(frame["ev"].as_str().unwrap().to_owned()).or_default();
        message.frames.push(frame);
        message.reads = Some(Box::new(|frame| {
            let read = ServerFrame::decode(Encoding::Json, frame.to_string().as_bytes(), |_| None);
            matches!(read, Ok(ServerFrame::Event(_)))
        }));
    }
    messages
}

/// What an `ok` holds, by the kind of answer.
fn answers() -> Messages {
    let mut messages = Messages::new();
    for (golden, op, outcome) in samples::replies() {
        // Only between the service's own processes.
        if op == "look" {
            continue;
        }
        let mut frame = parse(&encode_reply(7, &outcome, Encoding::Json));
        let (name, part) = match golden.as_str() {
            name if name.starts_with("err_") => ("refused", "err"),
            "joined" | "join_snapshot" | "join_resumed" | "found_quick" => ("joined", "ok"),
            "sent" | "sent_again" => ("sent", "ok"),
            "done" | "send_unsequenced" => ("done", "ok"),
            "changed" | "changed_game" => ("changed", "ok"),
            other => (other, "ok"),
        };
        let message = messages.entry(name.to_owned()).or_default();
        message.frames.push(frame[part].take());
        message.reads = Some(Box::new(move |held| {
            let frame = json!({"id": 7, part: held}).to_string();
            matches!(
                ServerFrame::decode(Encoding::Json, frame.as_bytes(), |_| Some(op)),
                Ok(ServerFrame::Reply { .. })
            )
        }));
    }
    messages
}

fn texts<T: ToString>(all: &[T]) -> Value {
    json!({"type": "string", "enum": all.iter().map(ToString::to_string).collect::<Vec<_>>()})
}

fn shared(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// What stands under a name, where the name says more than its frames.
fn named(message: &str, field: &str) -> Option<Value> {
    Some(match (message, field) {
        (_, "lobby") => shared("LobbyId"),
        (_, "epoch") => shared("Epoch"),
        (_, "seq" | "of") => shared("Seq"),
        (_, "at" | "now" | "until" | "expires_at") => shared("Millis"),
        ("error" | "refused", "code") => shared("ErrorCode"),
        ("notice", "code") => texts(NoticeCode::ALL),
        (_, "role") => shared("MemberRole"),
        (_, "class") => texts(Class::ALL),
        (_, "status") => texts(JoinStatus::ALL),
        (_, "reconnect") => texts(Reconnect::ALL),
        (_, "limits") => shared("Limits"),
        (_, "state") => shared("LobbyState"),
        ("update", "settings") => {
            json!({"type": "object", "description": "Those that change, and `password`; null gives one its default."})
        }
        (_, "settings") => shared("Settings"),
        ("join", "create") | ("find", "quick") => {
            json!({"type": ["boolean", "object"], "description": "`true`, or settings with a `password`."})
        }
        ("send", "to") => json!({
            "description": "`host`, `others`, or user ids.",
            "type": ["string", "array"], "items": {"type": "string"}, "maxItems": 100,
        }),
        (_, "body" | "results") => {
            json!({"description": "Any value, as its sender wrote it; of a chat a string."})
        }
        (_, "metadata" | "attributes" | "filter") => json!({"type": "object"}),
        (_, "messages" | "events" | "retained") => json!({
            "type": "array", "items": {"type": "object", "description": "Sequenced events, as they come live."},
        }),
        _ => return None,
    })
}

/// The schema of values seen under one name.
fn infer(message: &str, values: &[&Value]) -> Value {
    let mut types: Vec<&str> = Vec::new();
    for value in values {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if !types.contains(&kind) {
            types.push(kind);
        }
    }
    types.sort_unstable();
    let mut schema = match types.as_slice() {
        [one] => json!({"type": one}),
        several => json!({"type": several}),
    };
    let items: Vec<&Value> = values.iter().filter_map(|value| value.as_array()).flatten().collect();
    if !items.is_empty() {
        schema["items"] = infer(message, &items);
    }
    let objects: Vec<Value> =
        values.iter().filter(|value| value.is_object()).map(|value| (*value).clone()).collect();
    if !objects.is_empty() {
        // Lists of objects are read leniently: what is always there is required.
        let object = object(message, &objects, &|_, _| true);
        schema["properties"] = object["properties"].clone();
        schema["required"] = object["required"].clone();
    }
    schema
}

/// The schema of objects. `needed`: whether nobody can read the object without the field.
fn object(message: &str, frames: &[Value], needed: &dyn Fn(&Value, &str) -> bool) -> Value {
    let mut fields: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for (name, value) in frames.iter().filter_map(Value::as_object).flatten() {
        fields.entry(name).or_default().push(value);
    }
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, values) in fields {
        let mut schema = named(message, name).unwrap_or_else(|| infer(message, &values));
        if values.iter().any(|value| value.is_null()) && schema.get("$ref").is_some() {
            schema = json!({"anyOf": [schema, {"type": "null"}]});
        }
        properties.insert(name.to_owned(), schema);
        if values.len() == frames.len() && frames.iter().all(|frame| needed(frame, name)) {
            required.push(name);
        }
    }
    json!({"type": "object", "properties": properties, "required": required})
}

fn without(frame: &Value, field: &str) -> Value {
    let mut frame = frame.clone();
    frame.as_object_mut().unwrap().remove(field);
    frame
}

fn payload(name: &str, message: &Message) -> Value {
    let reads = message.reads.as_ref().unwrap();
    object(name, &message.frames, &|frame, field| !reads(&without(frame, field)))
}

/// A message whose field of the name says which it is.
fn tagged(mut payload: Value, tag: &str, name: &str) -> Value {
    payload["properties"][tag] = json!({"const": name});
    payload
}

fn schemas(events: &Messages) -> Value {
    let snapshot = &events["snapshot"].frames[0]["state"];
    let welcome = &events["welcome"].frames[0]["limits"];
    let reads = |frame: &Value, field: &str, ok: &dyn Fn(Value) -> bool| !ok(without(frame, field));
    let settings = object("state", &[snapshot["settings"].clone()], &|frame, field| {
        reads(frame, field, &|value| serde_json::from_value::<Settings>(value).is_ok())
    });
    let members: Vec<Value> = snapshot["members"].as_array().unwrap().clone();
    let member = object("state", &members, &|frame, field| {
        reads(frame, field, &|value| serde_json::from_value::<Member>(value).is_ok())
    });
    let limits = object("welcome", std::slice::from_ref(welcome), &|frame, field| {
        reads(frame, field, &|value| serde_json::from_value::<Limits>(value).is_ok())
    });
    let mut state = object("state", std::slice::from_ref(snapshot), &|_, _| true);
    state["properties"]["members"] = json!({"type": "array", "items": shared("Member")});
    state["properties"]["host"] = json!({"type": ["string", "null"]});
    state["properties"]["game"] = json!({"type": ["integer", "null"]});
    json!({
        "LobbyId": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "Epoch": {"type": "integer", "description": "The generation of a lobby's owner."},
        "Seq": {"type": "integer", "description": "A lobby's event number, from 1, without gaps."},
        "Millis": {"type": "integer", "description": "Unix milliseconds."},
        "ErrorCode": texts(ErrorCode::ALL),
        "MemberRole": texts(MemberRole::ALL),
        "Settings": settings,
        "Member": member,
        "Limits": limits,
        "LobbyState": state,
    })
}

/// A lobby's event as it goes out over AMQP: what the wire's event has beside its place is its `data`.
fn domain_event(name: &str, payload: &Value) -> Value {
    const OUTSIDE: [&str; 5] = ["ev", "lobby", "epoch", "seq", "at"];
    let mut data = payload.clone();
    data["properties"].as_object_mut().unwrap().retain(|field, _| !OUTSIDE.contains(&field.as_str()));
    data["required"].as_array_mut().unwrap().retain(|field| !OUTSIDE.contains(&field.as_str().unwrap()));
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "`<lobby>/<seq>`, also the message id: the same whenever it comes again."},
            "v": {"type": "integer"},
            "kind": {"const": name},
            "lobby": shared("LobbyId"),
            "seq": shared("Seq"),
            "epoch": shared("Epoch"),
            "at": shared("Millis"),
            "user": {"type": ["string", "null"], "description": "Whom it is about, else who did it; null: the system."},
            "data": data,
        },
        "required": ["id", "v", "kind", "lobby", "seq", "epoch", "at", "user", "data"],
    })
}

fn award() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "`<user>/<achievement>`."},
            "v": {"type": "integer"},
            "kind": {"const": "achievement_awarded"},
            "at": shared("Millis"),
            "user": {"type": "string"},
            "data": {
                "type": "object",
                "properties": {"achievement": {"type": "string"}},
                "required": ["achievement"],
            },
        },
        "required": ["id", "v", "kind", "at", "user", "data"],
    })
}

fn document() -> Value {
    let (commands, events, answers) = (commands(), events(), answers());
    let mut messages = Map::new();
    let mut add = |key: String, payload: Value| {
        messages
            .insert(key.clone(), json!({"name": key, "contentType": "application/json", "payload": payload}));
        key
    };
    let mut to_server = Vec::new();
    for (name, message) in &commands {
        to_server.push(add(format!("command.{name}"), tagged(payload(name, message), "op", name)));
    }
    let mut to_client = Vec::new();
    for (name, message) in &answers {
        let (part, held) = if name == "refused" { ("err", name.as_str()) } else { ("ok", name.as_str()) };
        let reply = json!({
            "type": "object",
            "properties": {"id": {"type": "integer", "description": "The command's."}, part: payload(held, message)},
            "required": ["id", part],
        });
        to_client.push(add(format!("reply.{name}"), reply));
    }
    let mut domain = Vec::new();
    for (name, message) in &events {
        let payload = payload(name, message);
        to_client.push(add(format!("event.{name}"), tagged(payload.clone(), "ev", name)));
        if samples::lobby_events().iter().any(|(_, event)| event.change.name() == name) {
            domain.push(add(format!("lobby.{name}"), domain_event(name, &payload)));
        }
    }
    domain.push(add("player.achievement_awarded".to_owned(), award()));
    let of_channel = |keys: &[&Vec<String>]| {
        let keys = keys.iter().flat_map(|keys| keys.iter());
        keys.map(|key| (key.clone(), json!({"$ref": format!("#/components/messages/{key}")})))
            .collect::<Map<_, _>>()
    };
    let operation = |action: &str, channel: &str, keys: &[String], summary: &str| {
        let messages: Vec<_> =
            keys.iter().map(|key| json!({"$ref": format!("#/channels/{channel}/messages/{key}")})).collect();
        json!({"action": action, "channel": {"$ref": format!("#/channels/{channel}")}, "summary": summary, "messages": messages})
    };
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "MLMS",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Frames of the socket (one object a frame; JSON text or MessagePack with the same keys) and domain events over AMQP. Ignore fields, events and codes that you do not know.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "socket": {
                "title": "socket",
                "address": "/ws",
                "description": "A WebSocket with the subprotocol mlms.v1.json (text frames) or mlms.v1.msgpack (binary frames).",
                "messages": of_channel(&[&to_server, &to_client]),
            },
            "events": {
                "title": "domain events",
                "address": "{routingKey}",
                "description": "The durable topic exchange mlms.events; at least once, a lobby's events in the order of seq.",
                "parameters": {"routingKey": {"description": "The message's name, such as lobby.game_finished."}},
                "bindings": {"amqp": {"is": "routingKey", "exchange": {"name": "mlms.events", "type": "topic", "durable": true}}},
                "messages": of_channel(&[&domain]),
            },
        },
        "operations": {
            "takeCommands": operation("receive", "socket", &to_server, "What a client says. With an `id` exactly one reply follows."),
            "sayToClients": operation("send", "socket", &to_client, "Replies and events."),
            "publishEvents": operation("send", "events", &domain, "What happened, once it is in the database."),
        },
        "components": {"messages": messages, "schemas": schemas(&events)},
    })
}

#[test]
fn the_document_says_what_the_golden_frames_say() {
    let document = document();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/asyncapi.json");
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(file, serde_json::to_string_pretty(&document).unwrap() + "\n").unwrap();
    }
    let written: Value =
        serde_json::from_str(&std::fs::read_to_string(file).unwrap_or_default()).unwrap_or_default();
    for kind in ["messages", "schemas"] {
        let of = |document: &Value| document["components"][kind].as_object().cloned().unwrap_or_default();
        let (written, expected) = (of(&written), of(&document));
        for (name, schema) in &expected {
            assert_eq!(written.get(name), Some(schema), "{name}: run with INSTA_UPDATE=always");
        }
    }
    assert_eq!(written, document, "run with INSTA_UPDATE=always");
}

#[test]
fn every_operation_event_and_code_is_in_the_document() {
    let document = document();
    for (kind, names) in [("command", commands()), ("event", events())] {
        for name in names.keys() {
            let message = &document["components"]["messages"][format!("{kind}.{name}")];
            assert!(message["payload"]["properties"].is_object(), "{kind} {name}");
        }
    }
    let needed = |name: &str| document["components"]["messages"][name]["payload"]["required"].clone();
    assert_eq!(needed("command.send"), json!(["body", "kind", "lobby", "op"]));
    assert_eq!(needed("event.banned"), json!(["at", "epoch", "ev", "lobby", "seq", "user"]));
}

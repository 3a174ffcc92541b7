//! The OpenAPI 3.1 document, written from the table of operations: a route that is not in the table is not served, and
//! one that is stands here. The schemas are `schemas.json`; the tests hold every answer against them.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response};
use mlms_protocol::{ErrorCode, Role};
use serde_json::{Map, Value, json};

use super::Reply;
use super::operation::{Access, OPERATIONS, Operation};
use crate::edge::Body;
use crate::metrics::Route;

/// Statuses that every operation may refuse with.
const REFUSES: &[u16] = &[400, 429, 503];
/// And those that want a token.
const REFUSES_WITH_TOKEN: &[u16] = &[401, 403];
/// And those that take a body.
const REFUSES_WITH_BODY: &[u16] = &[408, 413, 415];

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let text = serde_json::to_vec_pretty(&document()).expect("a document of plain values serializes");
    Bytes::from(text)
});

/// The document at a path: `/openapi.json` for HTTP, `/asyncapi.json` for the socket and the events. Any page may read
/// them; they are the same for everybody.
pub(crate) fn serve(path: &str, request: &HeaderMap) -> Option<Response<Body>> {
    let document = match path {
        "/openapi.json" => DOCUMENT.clone(),
        "/asyncapi.json" => Bytes::from_static(mlms_protocol::ASYNCAPI.as_bytes()),
        _ => return None,
    };
    let mut response = Reply::of_bytes(document).tagged().response(request);
    let anybody = HeaderValue::from_static("*");
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, anybody);
    Some(response)
}

fn schemas() -> Value {
    let mut schemas: Value =
        serde_json::from_str(include_str!("schemas.json")).expect("the schemas are JSON, as a test checks");
    let codes: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    schemas["schemas"]["Code"]["enum"] = json!(codes);
    schemas
}

fn document() -> Value {
    let Value::Object(mut components) = schemas() else { panic!("the schemas are an object") };
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_ascii_lowercase()] = describe(operation);
    }
    paths.insert("/health".to_owned(), json!({"get": describe_health()}));
    let problem = json!({"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}});
    let retry = json!({
        "description": "Seconds, where trying the same again later can help.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    });
    components.insert(
        "responses".to_owned(),
        json!({
            "Problem": {"description": "A problem.", "content": problem, "headers": {"Retry-After": retry}},
        }),
    );
    components.insert("securitySchemes".to_owned(), json!({
        "token": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "The same tokens as on the socket. What a token may do in a lobby follows from its roles and its user's membership.",
        },
    }));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "MLMS",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Lobbies over REST, for game back ends and for players. What happens in a lobby is decided by its owner, and every member sees it at the same place, whether it came over a socket or from here. Every answer carries `X-Request-Id`; one that the caller gives is kept. Unknown parameters are ignored, unknown fields of a body are refused.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": components,
    })
}

fn describe(operation: &Operation) -> Value {
    let mut described = json!({
        "operationId": operation_id(operation),
        "summary": operation.summary,
        "tags": [operation.route.label()],
        "parameters": parameters(operation),
        "responses": responses(operation),
    });
    if let Some(schema) = operation.body {
        let required = schema_requires(schema);
        described["requestBody"] = json!({
            "required": required,
            "content": {"application/json": {"schema": reference("schemas", schema)}},
        });
    }
    match operation.access {
        Access::Anybody => described["security"] = json!([]),
        Access::Token => described["security"] = json!([{"token": []}]),
        Access::Roles(roles) => {
            let roles: Vec<_> = roles.iter().map(|role: &Role| role.as_str()).collect();
            described["security"] = json!([{"token": []}]);
            described["description"] = json!(format!("For tokens with the role {}.", roles.join(", ")));
        }
    }
    described
}

/// The one path outside of the table: it is no operation on anything.
fn describe_health() -> Value {
    let health = json!({"application/json": {"schema": reference("schemas", "Health")}});
    let number = json!({"X-Request-Id": {"schema": {"type": "string"}, "required": true}});
    let answer = |words: &str| json!({"description": words, "headers": number, "content": health});
    json!({
        "operationId": "health",
        "summary": "How every service and every node is, as of a second ago at most.",
        "tags": [Route::Health.label()],
        "security": [],
        "parameters": [],
        "responses": {
            "200": answer("It serves."),
            "503": answer("It does not: no node is ready, or Redis is away."),
        },
    })
}

/// `LobbyCreate` → `lobbyCreate`.
fn operation_id(operation: &Operation) -> String {
    let verb = format!("{:?}", operation.verb);
    verb[..1].to_ascii_lowercase() + &verb[1..]
}

fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}

fn schema_requires(name: &str) -> bool {
    let schema = &schemas()["schemas"][name];
    schema["required"].as_array().is_some_and(|required| !required.is_empty())
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let names = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<_> = names.map(|name| reference("parameters", name)).collect();
    parameters.extend(operation.query.iter().map(|name| reference("parameters", name)));
    if operation.method == Method::POST && !matches!(operation.access, Access::Anybody) {
        parameters.push(reference("parameters", "idempotency_key"));
    }
    if operation.answers.iter().any(|(status, _)| *status == 304) {
        parameters.push(reference("parameters", "if_none_match"));
    }
    if operation.refuses.contains(&412) {
        parameters.push(reference("parameters", "if_match"));
    }
    parameters
}

fn responses(operation: &Operation) -> Value {
    let mut responses = Map::new();
    let number = json!({"X-Request-Id": {"schema": {"type": "string"}, "required": true}});
    for (status, schema) in operation.answers {
        let mut response = json!({"description": words(*status), "headers": number});
        if let Some(schema) = schema {
            response["content"] = json!({"application/json": {"schema": reference("schemas", schema)}});
        }
        responses.insert(status.to_string(), response);
    }
    let with_token: &[u16] = match operation.access {
        Access::Anybody => &[403],
        _ => REFUSES_WITH_TOKEN,
    };
    let takes_body = !matches!(operation.method, Method::GET);
    let with_body: &[u16] = if takes_body { REFUSES_WITH_BODY } else { &[] };
    for status in REFUSES.iter().chain(with_token).chain(with_body).chain(operation.refuses) {
        responses.insert(status.to_string(), reference("responses", "Problem"));
    }
    Value::Object(responses)
}

fn words(status: u16) -> &'static str {
    match status {
        201 => "It is made, or said.",
        202 => "It is on its way; nothing is known of it later.",
        304 => "It is as the caller has it.",
        _ => "It is so.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(target) if name == "$ref" => found.push(target.clone()),
                        other => references(other, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_component_is_referred_to() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        for target in &found {
            let place = document.pointer(target.trim_start_matches('#'));
            assert!(place.is_some(), "{target}");
        }
        for kind in ["schemas", "parameters", "responses"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                let target = format!("#/components/{kind}/{name}");
                assert!(found.contains(&target), "{target} is not used");
            }
        }
    }

    #[test]
    fn every_operation_is_described_once_with_what_it_may_answer() {
        let document = document();
        let mut ids = std::collections::BTreeSet::new();
        for operation in OPERATIONS {
            let described =
                &document["paths"][operation.path][operation.method.as_str().to_ascii_lowercase()];
            assert!(ids.insert(described["operationId"].as_str().unwrap().to_owned()));
            let responses = described["responses"].as_object().unwrap();
            for (status, _) in operation.answers {
                assert!(responses.contains_key(&status.to_string()), "{} {status}", operation.path);
            }
            assert!(responses.contains_key("429") && responses.contains_key("503"));
            assert!(described["summary"].as_str().unwrap().ends_with('.'), "{}", operation.path);
        }
    }

    #[test]
    fn the_names_of_settings_and_roles_are_those_of_the_protocol() {
        let schemas = schemas();
        let given: mlms_protocol::lobby::Settings = serde_json::from_value(json!({
            "name": "x", "capacity": 1, "locked": true, "word_filter": ["x"], "hosts": ["x"], "metadata": {"x": 1},
        }))
        .unwrap();
        let Value::Object(told) = serde_json::to_value(&given).unwrap() else {
            panic!("settings are an object")
        };
        let names = |schema: &str| {
            let properties = schemas["schemas"][schema]["properties"].as_object().unwrap();
            let mut names: Vec<String> = properties.keys().cloned().collect();
            names.sort();
            names
        };
        let mut expected: Vec<String> = told.keys().cloned().collect();
        expected.sort();
        assert_eq!(names("Settings"), expected);
        for given in ["SettingsGiven", "SettingsPatch"] {
            let mut names = names(given);
            names.retain(|name| name != "password");
            let unsettable = |name: &&String| *name != "locked";
            assert_eq!(names, expected.iter().filter(unsettable).cloned().collect::<Vec<_>>(), "{given}");
        }
        let roles: Vec<_> = mlms_protocol::MemberRole::ALL.iter().map(|role| role.as_str()).collect();
        assert_eq!(schemas["schemas"]["MemberRole"]["enum"], json!(roles));
    }
}

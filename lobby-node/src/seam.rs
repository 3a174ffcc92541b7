//! Commands that come by REST: a broker of the cluster names a caller and gives a frame, as a socket would, and gets
//! the reply. No session stands behind it, so what needs one is refused.

use std::sync::Arc;

use bytes::Bytes;
use mlms_protocol::command::{DecodeError, Find};
use mlms_protocol::reply::encode_reply;
use mlms_protocol::{
    Answer, Command, Encoding, ErrorCode, LobbyCommand, Refusal, Request, Role, Seq, SessionId, TraceParent,
    UserId,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::limiter::Grant;
use crate::lobby::{Caller, CommandKey};
use crate::node::Node;
use crate::search::Query;
use crate::session::COMMAND_TIME;
use crate::worker::{Envelope, Origin, ToWorker, Turn};

#[derive(Deserialize)]
struct Call<'a> {
    /// Who is responsible: repeats are recognised by it and the nonce.
    user: UserId,
    name: Option<String>,
    #[serde(default)]
    roles: Vec<Role>,
    /// The service itself says it: a message is from nobody.
    #[serde(default)]
    system: bool,
    /// The newest event of the lobby, as the caller knows it.
    expects: Option<Seq>,
    /// The command as on a socket; `look` and `create` besides.
    #[serde(borrow)]
    frame: &'a RawValue,
}

/// Carries out a call, and gives the reply's frame.
///
/// # Errors
/// The body is no call.
pub(crate) async fn carry_out(
    node: &Arc<Node>,
    body: &[u8],
    trace: Option<TraceParent>,
) -> Result<Bytes, &'static str> {
    let call: Call<'_> = serde_json::from_slice(body).map_err(|_| "not a call")?;
    let decoded = Request::decode_internal(Encoding::Json, call.frame.get().as_bytes());
    let (id, outcome) = match decoded {
        Err(DecodeError::Protocol) => return Err("the frame is not one object with `op`"),
        Err(DecodeError::Refused { id, code, message, .. }) => (id, Err(Refusal::new(code, message))),
        Ok(request) => {
            let id = request.id;
            let name = call.name.unwrap_or_else(|| call.user.to_string());
            let session = SessionId::new(&format!("call-{}", uuid::Uuid::now_v7().simple()));
            let session = session.map_err(|_| "no session id can be made")?;
            let Call { user, roles, system, expects, .. } = call;
            let caller = Caller { session, user, name, roles, system, expects };
            (id, run(node, caller, request, trace).await)
        }
    };
    Ok(Bytes::from(encode_reply(id.unwrap_or(0), &outcome, Encoding::Json)))
}

async fn run(
    node: &Arc<Node>,
    caller: Caller,
    request: Request,
    trace: Option<TraceParent>,
) -> Result<Answer, Refusal> {
    let refuse = |text: &str| Err(Refusal::new(ErrorCode::BadRequest, text));
    let (lobby, mut command) = match request.command {
        Command::Lobby(lobby, command) => (lobby, command),
        Command::Find(find) if find.quick.is_none() => return self::find(node, &find).await,
        _ => return refuse("this needs a session"),
    };
    match &command {
        LobbyCommand::Join(_) | LobbyCommand::Leave | LobbyCommand::Typing => {
            return refuse("this needs a session");
        }
        LobbyCommand::Send(send)
            if send.kind.is_chat()
                && send.body.as_text().is_some_and(|text| text.len() > node.limits().chat_bytes_max) =>
        {
            let text = format!("a chat has at most {} bytes", node.limits().chat_bytes_max);
            return Err(Refusal::new(ErrorCode::TooLarge, text));
        }
        LobbyCommand::Create(_) if caller.roles.is_empty() && !caller.system => {
            if let Grant::Later(ms) = node.creates.take(&caller.user) {
                return Err(Refusal::new(ErrorCode::RateLimited, "too many lobbies created").retry_after(ms));
            }
        }
        _ => {}
    }
    node.metrics.count_command(command.op());
    crate::secret::seal(node, &caller, &lobby, request.nonce.as_ref(), &mut command).await?;
    let key = command.changes_state().then(|| match request.nonce {
        Some(nonce) => CommandKey::Nonce(nonce),
        None => CommandKey::Counted(caller.session.clone(), 1),
    });
    let (answer, mut answered) = mpsc::channel(1);
    let trace = node.trace_command("call.command", trace.as_ref(), &caller, &lobby, command.op());
    let envelope = Envelope {
        trace,
        caller: Arc::new(caller),
        origin: Origin::Call(answer),
        lobby: lobby.clone(),
        command,
        key,
        found: None,
        deadline: Instant::now() + COMMAND_TIME,
        turn: Turn::default(),
    };
    if node.tell(&lobby, ToWorker::Command(Box::new(envelope))).await.is_err() {
        let text = "the lobby's node does not keep up";
        return Err(Refusal::new(ErrorCode::Overloaded, text).retry_after(1_000));
    }
    // A worker that ends, or a lobby that panics, drops the sender.
    let gone =
        || Refusal::new(ErrorCode::OwnerUnavailable, "the lobby's node is out of reach").retry_after(1_000);
    match tokio::time::timeout(2 * COMMAND_TIME, answered.recv()).await {
        Ok(Some(outcome)) => outcome,
        Ok(None) => Err(gone()),
        Err(_) => Err(Refusal::new(ErrorCode::Timeout, "the lobby's node did not answer").retry_after(500)),
    }
}

/// Lobbies of the published list.
async fn find(node: &Node, find: &Find) -> Result<Answer, Refusal> {
    node.metrics.count_command("find");
    let query = Query::read(find)?;
    let list = node.index.list(&node.directory).await.map_err(|_| {
        Refusal::new(ErrorCode::Degraded, "the list cannot be read just now").retry_after(1_000)
    })?;
    Ok(query.answer(&list))
}

//! Says hello and prints what it hears: `cargo run -p mlms-client --example hello -- ws://localhost:8080 TOKEN`

use mlms_client::protocol::command::Join;
use mlms_client::protocol::{Change, Event, LobbyId};
use mlms_client::{Client, Incoming, Options, TokenSource};
use tokio::io::AsyncWriteExt as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (url, token) = arguments.next().zip(arguments.next()).expect("URL TOKEN");
    let (client, mut events) = Client::connect(Options::new(url, TokenSource::fixed(token)))?;
    let lobby = LobbyId::new("lounge")?;
    client.join(&lobby, Join { create: Some(Default::default()), ..Join::default() }).await?;
    // Once it is there, nothing can lose it any more.
    client.chat(&lobby, "hello from Rust").await?;
    while let Some(incoming) = events.recv().await {
        let Incoming::Event(Event::Lobby(event)) = incoming else { continue };
        if let Change::Message { from: Some(from), body, .. } = event.change {
            let line = format!("{from}: {}\n", body.as_text().unwrap_or_default());
            tokio::io::stdout().write_all(line.as_bytes()).await?;
        }
    }
    Ok(())
}

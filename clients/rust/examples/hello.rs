//! Says hello and prints what it hears: `cargo run -p mlms-client --example hello -- ws://localhost:8080 TOKEN`

use std::io::Write as _;

use mlms_client::protocol::{Change, Event, LobbyId, command::Join};
use mlms_client::{Client, Incoming, Options, TokenSource};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (url, token) = arguments.next().zip(arguments.next()).expect("URL TOKEN");
    let (client, mut events) = Client::connect(Options::new(url, TokenSource::fixed(token)))?;
    let lobby = LobbyId::new("lounge")?;
    client.join(&lobby, Join { create: Some(Default::default()), ..Join::default() }).await?;
    client.chat(&lobby, "hello from Rust").await?; // once it is there, nothing can lose it any more
    while let Some(incoming) = events.recv().await {
        let Incoming::Event(Event::Lobby(event)) = incoming else { continue };
        let Change::Message { from: Some(from), body, .. } = event.change else { continue };
        writeln!(std::io::stdout(), "{from}: {}", body.as_text().unwrap_or_default())?;
    }
    Ok(())
}

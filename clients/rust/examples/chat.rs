//! A chat in the terminal: `cargo run -p mlms-client --example chat -- ws://localhost:8080 TOKEN lounge`

use mlms_client::protocol::command::Join;
use mlms_client::protocol::{Change, Event, LobbyId};
use mlms_client::{Client, Incoming, Options, TokenSource};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let [url, token, lobby] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().expect("URL TOKEN LOBBY");
    let (client, mut events) = Client::connect(Options::new(url, TokenSource::fixed(token)))?;
    let lobby = LobbyId::new(&lobby)?;
    client.join(&lobby, Join { create: Some(Default::default()), ..Join::default() }).await?;
    let printing = tokio::spawn(async move {
        while let Some(incoming) = events.recv().await {
            let Incoming::Event(Event::Lobby(event)) = incoming else { continue };
            if let Change::Message { from: Some(from), body, .. } = event.change {
                let text = body.as_text().unwrap_or_default();
                tokio::io::stdout().write_all(format!("{from}: {text}\n").as_bytes()).await?;
            }
        }
        std::io::Result::Ok(())
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        client.chat(&lobby, &line).await?;
    }
    client.close().await;
    Ok(printing.await??)
}

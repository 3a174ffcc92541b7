//! What is secret in a command: a lobby's password is hashed, an invite's secret is made, before the command leaves
//! the process that the client is connected to. Hashing runs off the workers' threads, a few at a time.

use std::fmt::Write as _;

use argon2::{Algorithm, Argon2, Params, Version};
use mlms_protocol::command::Lock;
use mlms_protocol::{ErrorCode, LobbyCommand, LobbyId, Nonce, Refusal, UserId};
use rand::Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::lobby::Caller;
use crate::node::Node;

/// Hashes at once; more wait, so that guessing cannot take all processors.
const AT_ONCE: usize = 2;
/// Hashes that wait beside those; beyond it a command is refused.
const WAITING_MAX: usize = 64;
/// Memory of one hash in KiB, and its rounds: some milliseconds. What it guards is a game's lobby.
const MEMORY_KIB: u32 = 4_096;
const ROUNDS: u32 = 3;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// The room for hashing.
#[derive(Debug)]
pub(crate) struct Sealing {
    running: Semaphore,
    queue: Semaphore,
}

impl Default for Sealing {
    fn default() -> Self {
        Sealing { running: Semaphore::new(AT_ONCE), queue: Semaphore::new(AT_ONCE + WAITING_MAX) }
    }
}

fn overloaded() -> Refusal {
    Refusal::new(ErrorCode::Overloaded, "too many passwords are being looked at").retry_after(500)
}

impl Sealing {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let _queued = self.queue.try_acquire().map_err(|_| overloaded())?;
        let _running = self.running.acquire().await.map_err(|_| overloaded())?;
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| Refusal::new(ErrorCode::Internal, "a password could not be looked at"))
    }

    /// A password as it is kept.
    async fn seal(&self, password: String) -> Result<String, Refusal> {
        self.run(move || {
            let salt: [u8; SALT_BYTES] = rand::rng().random();
            format!("argon2id${}${}", hex(&salt), hex(&hash(&password, &salt)))
        })
        .await
    }

    /// Whether a password is the one that is kept so.
    pub(crate) async fn opens(&self, password: String, kept: String) -> Result<bool, Refusal> {
        self.run(move || {
            let mut parts = kept.split('$').skip(1);
            let (Some(salt), Some(expected)) = (parts.next().and_then(unhex), parts.next().and_then(unhex))
            else {
                return false;
            };
            if salt.len() != SALT_BYTES || expected.len() != HASH_BYTES {
                return false;
            }
            // Every byte is looked at, whichever differs.
            let differs = hash(&password, &salt).iter().zip(&expected).fold(0, |all, (a, b)| all | (a ^ b));
            differs == 0
        })
        .await
    }
}

fn hash(password: &str, salt: &[u8]) -> [u8; HASH_BYTES] {
    let params =
        Params::new(MEMORY_KIB, ROUNDS, 1, Some(HASH_BYTES)).expect("the constants are within bounds");
    let mut out = [0; HASH_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), salt, &mut out)
        .expect("a bounded password and a salt of our own can be hashed");
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to memory cannot fail");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks_exact(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// What an invite's secret is made of when its command may be sent twice.
#[derive(Serialize)]
struct Named<'a> {
    purpose: &'static str,
    user: &'a UserId,
    lobby: &'a LobbyId,
    nonce: &'a Nonce,
}

/// Whether a command has something to seal.
pub(crate) fn is_in(command: &LobbyCommand) -> bool {
    let lock = match command {
        LobbyCommand::Join(join) => &join.lock,
        LobbyCommand::Update(update) => &update.lock,
        LobbyCommand::Create(create) => &create.lock,
        LobbyCommand::Invite(_) => return true,
        _ => return false,
    };
    matches!(lock, Some(Lock::Password(_)))
}

/// Seals what is secret in a command.
///
/// # Errors
/// Too much is being sealed at the moment.
pub(crate) async fn seal(
    node: &Node,
    caller: &Caller,
    lobby: &LobbyId,
    nonce: Option<&Nonce>,
    command: &mut LobbyCommand,
) -> Result<(), Refusal> {
    let lock = match command {
        LobbyCommand::Join(join) => &mut join.lock,
        LobbyCommand::Update(update) => &mut update.lock,
        LobbyCommand::Create(create) => &mut create.lock,
        LobbyCommand::Invite(invite) => {
            invite.secret = match nonce {
                // A repeat with the same nonce gets the same secret, and nobody without the cluster's key finds it.
                Some(nonce) => {
                    let named = Named { purpose: "invite", user: &caller.user, lobby, nonce };
                    hex(&Sha256::digest(node.keys.sign(&named).as_bytes()))
                }
                None => hex(&rand::rng().random::<[u8; HASH_BYTES]>()),
            };
            return Ok(());
        }
        _ => return Ok(()),
    };
    if let Some(Lock::Password(password)) = lock {
        let password = std::mem::take(password);
        *lock = Some(Lock::Hash(node.sealing.seal(password).await?));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_opens_what_it_was_sealed_as_and_nothing_else() {
        let sealing = Sealing::default();
        let kept = sealing.seal("sesame".to_owned()).await.unwrap();
        let again = sealing.seal("sesame".to_owned()).await.unwrap();
        assert_ne!(kept, again, "each has its own salt");
        assert!(!kept.contains("sesame"));
        for (password, kept, opens) in [
            ("sesame", kept.as_str(), true),
            ("sesame", &again, true),
            ("Sesame", &kept, false),
            ("", &kept, false),
            ("sesame", "", false),
            ("sesame", "argon2id$00$", false),
            ("sesame", "argon2id$zz$zz", false),
        ] {
            assert_eq!(
                sealing.opens(password.to_owned(), kept.to_owned()).await.unwrap(),
                opens,
                "{password} {kept}"
            );
        }
    }
}

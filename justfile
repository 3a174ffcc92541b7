# Everyday commands. CI runs the same ones: ./test calls what stands here.

# Run the service on http://localhost:8080.
run *ARGS:
    cargo run --release -- {{ARGS}}

# Run every test, or the named parts (./test --list).
test *PARTS:
    ./test {{PARTS}}

# Check what a compiler, a formatter and a shell can check.
lint:
    ./test format shell repository clippy

# Format all crates.
fmt:
    cargo fmt --all

# Run N seeds of every simulation.
simulate N='1000':
    MLMS_SEEDS={{N}} MLMS_SIMULATE={{N}} cargo test --release --workspace simulation -- --nocapture

# Run the simulations and the chaos suite for hours; stops at the first failure.
soak N='100000': (simulate N) (chaos '200')

# Let every fault of the chaos suite happen N times to real processes under load.
chaos N='10':
    MLMS_CHAOS={{N}} cargo test --release -p mlms --test chaos -- --nocapture

# Measure how many events a second go into SQLite and into a MariaDB.
inserts:
    cargo test --release -p mlms-store --lib -- --ignored --nocapture inserts_a_second

# Measure chat beside a frozen MariaDB and beside one that runs, in one run.
frozen:
    cargo test --release -p mlms --test chaos -- --ignored --nocapture frozen

# Run the Autobahn cases against the codec, directly and through the broker.
conformance:
    ./test install conformance

# Run the tests of the page in headless Chromium.
page:
    ./test install build page

# Feed random frames to the parsers, SECONDS for each target (takes a nightly compiler and cargo-fuzz).
fuzz SECONDS='60':
    cd protocol && for target in client_frames server_frames; do cargo +nightly fuzz run $target -- -max_total_time={{SECONDS}}; done

# Check licences, bans and sources of the dependencies.
deny:
    ./test install deny

# Write the table of settings into README.md, and build the API's documentation.
doc:
    cargo build --release
    node tests/readme/settings.js
    cargo doc --release --workspace --no-deps

# Run a load test, for example: just load chat --target ws://localhost:8080 --secret-file data/jwt-secret
[positional-arguments]
load SCENARIO *ARGS:
    cargo run --release -p loadtest -- run "$@"

# Measure the pure parts by themselves: frames read and written, placement, a lobby's decisions.
pure:
    cargo bench -p mlms-benches --bench wire
    cargo test --release -p mlms-lobby-node --lib -- --ignored --nocapture what_decisions_cost

# Measure the service beside the floor and other peers (docs/performance.md): just bench [ratios durable curves storm neighbours memory aims]
[positional-arguments]
bench *ARGS:
    cargo build --release --workspace
    npm --prefix benches/peers ci --no-audit --no-fund
    node benches/run.mjs "$@"

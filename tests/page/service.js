/** A real `mlms standalone` on free ports and a fresh database, which can be killed and started again. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const binary = process.env.MLMS_BIN ?? fileURLToPath(new URL('../../target/release/mlms', import.meta.url));

/** Generous: the machine may be busy. */
const START_MS = 60_000;

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

export class Service {
  #child;
  #log = '';

  /** @param {Record<string, string>} [settings] environment on top of the defaults */
  static async start(settings = {}) {
    const service = new Service();
    service.folder = await mkdtemp(path.join(tmpdir(), 'mlms-page-'));
    service.settings = settings;
    // A port that was free may be another test's by the time the service listens.
    for (let attempt = 1; ; attempt += 1) {
      service.port = await freePort();
      service.adminPort = await freePort();
      try {
        await service.run();
        return service;
      } catch (error) {
        if (attempt === 5 || !error.message.includes('Address already in use')) throw error;
        service.#log = '';
      }
    }
  }

  get url() {
    return `http://127.0.0.1:${this.port}/`;
  }

  get #environment() {
    return {
      // The server refuses settings that it does not know, such as our MLMS_BIN.
      ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('MLMS_'))),
      MLMS_LISTEN: `127.0.0.1:${this.port}`,
      MLMS_ADMIN_LISTEN: `127.0.0.1:${this.adminPort}`,
      MLMS_DATABASE_URL: `sqlite://${path.join(this.folder, 'mlms.db')}`,
      ...this.settings,
    };
  }

  /** A token as an operator makes one. @param {...string} options of `mlms token` */
  async token(...options) {
    const { stdout } = await promisify(execFile)(binary, ['token', ...options], { env: this.#environment, cwd: this.folder });
    return stdout.trim();
  }

  /** Starts the process and waits until it takes sessions. */
  async run() {
    const child = spawn(binary, ['standalone'], { env: this.#environment, cwd: this.folder, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    const keep = (text) => (this.#log = (this.#log + text).slice(-20_000));
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    let gone = null;
    child.on('error', (error) => (gone = error));
    child.on('exit', (code, signal) => (gone ??= new Error(`it exited with ${code ?? signal}`)));
    process.once('exit', () => child.kill('SIGKILL')); // a test that breaks off leaves nothing behind
    for (const deadline = Date.now() + START_MS; ; ) {
      if (gone) throw new Error(`${binary} does not run: ${gone.message}\n${this.#log}`);
      const ready = await fetch(`http://127.0.0.1:${this.adminPort}/ready`).then((response) => response.ok, () => false);
      if (ready) return;
      if (Date.now() > deadline) throw new Error(`${binary} is not ready in time\n${this.#log}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** As a power cut: nothing is flushed, nobody is told. */
  async kill() {
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }

  /** Its disk is lost, while it does not run. */
  async forget() {
    await rm(this.folder, { recursive: true });
    await mkdir(this.folder);
  }

  /** As a rolling update: everybody is told, everything is flushed. @returns {Promise<number | null>} the exit code */
  async drain() {
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    return (await exited)[0];
  }

  async stop() {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await this.kill();
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** The network between one player and the service, which can be cut. */
export class Cable {
  #sockets = new Set();
  #whole = true;

  /** @param {Service} service */
  static async to(service) {
    const cable = new Cable();
    cable.server = net.createServer((near) => cable.#join(near, service.port)).listen(0, '127.0.0.1');
    await once(cable.server, 'listening');
    return cable;
  }

  get url() {
    return `http://127.0.0.1:${this.server.address().port}/`;
  }

  #join(near, port) {
    if (!this.#whole) return near.resetAndDestroy();
    const far = net.connect(port, '127.0.0.1');
    for (const [one, other] of [[near, far], [far, near]]) {
      this.#sockets.add(one);
      one.pipe(other);
      one.on('error', () => other.destroy());
      one.on('close', () => {
        this.#sockets.delete(one);
        other.destroy();
      });
    }
  }

  cut() {
    this.#whole = false;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend() {
    this.#whole = true;
  }

  close() {
    this.cut();
    this.server.close();
  }
}

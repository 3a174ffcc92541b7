/** Runs chat.yml against a real service, on the runner and the WebSocket engine that Artillery itself runs it on. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';

import { Service } from '../../tests/page/service.js';

const require = createRequire(import.meta.url);
const core = require('@artilleryio/int-core');
const yaml = require('js-yaml');
const runner = core.runner.runner ?? core.runner;

const secret = 'a secret of the tests, long enough';
let service;
before(async () => {
  process.env.LOADTEST_SECRET = secret;
  process.env.LOADTEST_LOBBIES = '3';
  service = await Service.start({ MLMS_JWT_HS256_SECRET: secret });
});
after(() => service.stop());

/** The file with this run's target, and fewer and quicker users. */
function script() {
  const script = yaml.load(readFileSync(new URL('chat.yml', import.meta.url), 'utf8'));
  script.config.target = `ws://127.0.0.1:${service.port}`;
  script.config.processor = require('./processor.js');
  script.config.phases = [{ duration: 3, arrivalCount: 12 }];
  const loop = script.scenarios[0].flow.find((step) => step.loop);
  loop.count = 4;
  loop.loop.find((step) => step.think).think = 0.2;
  return script;
}

test('people chat, and nothing is missing', { timeout: 120_000 }, async () => {
  await core.updateGlobalObject?.();
  const events = await runner(script(), undefined, {});
  const report = await new Promise((resolve) => {
    events.on('done', resolve);
    events.run();
  });
  await events.stop();
  const { counters, histograms } = report;
  const errors = Object.keys(counters).filter((name) => name.startsWith('errors.'));
  assert.deepEqual(errors, []);
  assert.equal(counters['mlms.joins'], 12);
  // Each of 12 users: a join, four messages, a resume, a leave.
  assert.equal(counters['mlms.ok'], 12 * 7);
  assert.ok(counters['mlms.deliveries'] >= 12 * 4, JSON.stringify(counters));
  assert.equal(counters['mlms.missed'] ?? 0, 0);
  assert.ok(histograms['mlms.delivery_ms'], Object.keys(report).join());
});

import assert from 'node:assert/strict';
import test from 'node:test';

import { Backoff } from '../src/backoff.js';

const make = (random) => new Backoff({ baseMs: 1000, maxMs: 30_000, random: () => random });

test('jitter_is_full_from_the_first_retry_and_bounded', () => {
  const [least, most] = [make(0), make(1)];
  const waits = Array.from({ length: 8 }, () => [least.next(), most.next()]);
  assert.deepEqual(waits.map(([low]) => low), [0, 0, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual(waits.map(([, high]) => high), [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
});

test('a_connection_that_lasted_starts_anew', () => {
  const backoff = make(1);
  for (let i = 0; i < 5; i += 1) backoff.next();
  backoff.reset();
  assert.equal(backoff.next(), 1000);
});

test('now_is_now_once_and_backs_off_in_a_loop', () => {
  const backoff = make(1);
  assert.equal(backoff.next({ reconnect: 'now' }), 0);
  assert.equal(backoff.next({ reconnect: 'now' }), 2000);
  backoff.reset();
  assert.equal(backoff.next({ reconnect: 'now' }), 0);
});

test('a_window_is_spread_over_and_a_broken_one_is_a_short_one', () => {
  for (const [random, wait] of [[0, 2000], [0.5, 3000], [1, 4000]]) {
    assert.equal(make(random).next({ reconnect: 'window', window_ms: [2000, 4000] }), wait);
  }
  for (const window_ms of [undefined, [], [5, 1], ['x', 'y'], [-5, 3]]) {
    assert.equal(make(1).next({ reconnect: 'window', window_ms }), 1000);
  }
});

test('retry_after_comes_before_the_jitter', () => {
  assert.equal(make(1).next(undefined, 5000), 6000);
});

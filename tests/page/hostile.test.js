import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';

import { openBrowser } from './player.js';
import { Service } from './service.js';
import { openWindows } from './windows.js';

/** Fifty texts that try to be more than text. All set `hacked` when something runs them. */
const HOSTILE = [
  '<img src=x onerror="hacked=1">', '<script>hacked=1</script>', '"><svg onload=hacked=1>', '<style>*{display:none}</style>',
  '<a href="javascript:hacked=1">x</a>', '{{constructor.constructor("hacked=1")()}}', '&lt;b&gt; &amp;amp; &#x3c;img&#x3e;',
  '<!-- --><iframe srcdoc="<script>parent.hacked=1</script>">', '\u202Egnirts desrever', '\u200B\u200Dx\uFEFF', 'Z̸̧͑a̷l̵g̶o̴', 'W'.repeat(60),
  '__proto__', 'constructor', '${hacked=1}', "'; DROP TABLE events; --", '<body onload=hacked=1>', '<input autofocus onfocus=hacked=1>',
  '<details open ontoggle=hacked=1>', '<video><source onerror=hacked=1>', '<math><mi xlink:href="javascript:hacked=1">', '<base href="//evil.example/">',
  '<meta http-equiv=refresh content="0;url=//evil.example">', '<link rel=stylesheet href=//evil.example>', '<object data="javascript:hacked=1">', '<embed src="javascript:hacked=1">',
  '<form action=javascript:hacked=1><button>', 'javascript:hacked=1', 'data:text/html,<script>hacked=1</script>', '</bdi></p><script>hacked=1</script>',
  '</textarea><script>hacked=1</script>', '<svg><script>hacked=1</script>', '<svg><animate onbegin=hacked=1>', '<marquee onstart=hacked=1>', '%3Cscript%3Ehacked=1%3C/script%3E',
  '\\u003cscript\\u003ehacked=1', '<scr<script>ipt>hacked=1</script>', '<IMG SRC=`javascript:hacked=1`>', '<<script>hacked=1//<</script>', '\uFF1Cscript\uFF1Ehacked=1',
  'toString', 'hasOwnProperty', 'null', 'undefined', '[object Object]', '$&$1$$', '\u2066\u2067\u2068\u2069\u202A', '𝕳𝖆𝖈𝖐 👩‍👩‍👧‍👦 ﷽', '<%= hacked=1 %>', '#{hacked=1}',
];

let browser;
let service;

before(async () => {
  browser = await openBrowser();
  service = await Service.start({ MLMS_LIMIT_CHATS_PER_S: '0', MLMS_LIMIT_COMMANDS_PER_S: '0', MLMS_LIMIT_CREATES_PER_MINUTE: '0' });
});
after(async () => {
  await browser?.close();
  await service?.stop();
});

test('fifty_hostile_strings_as_names_and_messages_have_no_effect', { timeout: 240_000 }, async (t) => {
  assert.equal(new Set(HOSTILE).size, 50);
  const { named } = openWindows(browser, t, service.url);
  const ann = await named('Ann');
  const id = await ann.creates('<script>hacked=1</script>');
  // Each one comes under that name, says it, is ready under it, and leaves a lobby of that name behind.
  const stay = HOSTILE.length - 5;
  await ann.page.evaluate(async ({ id, texts, stay }) => {
    const { Client } = await import('/client/index.js');
    globalThis.crowd = [];
    for (const [at, text] of texts.entries()) {
      const name = new TextDecoder().decode(new TextEncoder().encode(text).slice(0, 60)).replace(/\uFFFD$/, '');
      const response = await fetch('/v1/guests', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ name }) });
      if (!response.ok) throw new Error(`${name}: ${response.status} ${await response.text()}`);
      const client = new Client({ url: '/ws', token: (await response.json()).token });
      await client.connect();
      const lobby = await client.join(id);
      await lobby.chat(text);
      await lobby.send('game', { battle: text, players: text });
      await lobby.command('ready', { ready: true });
      if (at >= stay) {
        globalThis.crowd.push(client);
        await client.join(`hostile-${at}`, { create: { name: [...text].slice(0, 64).join('') } });
      } else {
        await lobby.leave();
        client.close();
      }
    }
  }, { id, texts: HOSTILE, stay });
  const said = HOSTILE.map((text) => text);
  const bob = await named('"><svg/onload=hacked=1>');
  await bob.joins(id);
  for (const text of HOSTILE.slice(-3)) await ann.says(text);
  said.push(...HOSTILE.slice(-3));
  await ann.hasMessages(said);
  await bob.sees('#log .body', '#{hacked=1}');
  // A reason, and what is typed after a slash.
  await ann.says(`/kick ${HOSTILE.at(-1)} <img src=x onerror=hacked=1>`);
  await bob.sees('#log .system', '#{hacked=1} was kicked by Ann: <img src=x onerror=hacked=1>');
  await ann.says('/<img src=x onerror=hacked=1>');
  await ann.sees('#log .note', 'There is no command /<img');
  await bob.page.locator('#list [data-lobby="hostile-45"]').waitFor();
  for (const player of [ann, bob]) {
    assert.equal(await player.page.locator('#lobby-name').textContent(), '<script>hacked=1</script>');
    const foreign = await player.page.evaluate(() => document.querySelectorAll('main :is(img, script, iframe, style, object, embed, video, base, a[href^=javascript]), :is(#log, #list, #members, h2) svg').length);
    assert.equal(foreign, 0);
    assert.equal(await player.page.evaluate(() => globalThis.hacked), undefined);
    await player.isWellMade();
  }
  // An address can be hostile, too.
  for (const hash of ['#/lobby/<img src=x onerror=hacked=1>', '#/lobby/x/invite/%', '#/lobby/x/invite/%3Cimg%20src=x%20onerror=hacked=1%3E', '#/operator']) {
    await bob.page.goto(`${service.url}${hash}`);
    assert.equal(await bob.page.evaluate(() => globalThis.hacked), undefined);
  }
  ann.isContent();
  bob.isContent();
});

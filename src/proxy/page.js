// Draws what /status says, every two seconds while somebody looks.
//
// Whatever comes from /status may be a stranger's words: it gets into the page by textContent alone, and the page's policy
// (Trusted Types) refuses any other way.
'use strict';
(() => {
  const EVERY = 2000;
  const PATIENCE = 4000;
  const FEW = 50;
  const MOST_PATHS = 8;
  const TREND = 30;
  const SVG = 'http://www.w3.org/2000/svg';

  const at = (id) => document.getElementById(id);
  const list = (value) => (Array.isArray(value) ? value : []);

  // Changes the page only where it says something else now, so that a selection stands and nothing is read out twice.
  const say = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };
  const mark = (node, name) => {
    if (node.className !== name) node.className = name;
  };
  const show = (node, shown) => {
    if (node.hidden === shown) node.hidden = !shown;
  };
  const make = (tag, text, name) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (name) node.className = name;
    return node;
  };
  const draw = (tag, attributes, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const number = (value) => Number(value).toLocaleString('en');
  const count = (value, one, many) => `${number(value)} ${value === 1 ? one : many}`;
  const bytes = (value) => {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let unit = 0;
    while (value >= 1024 && unit < units.length - 1) {
      value /= 1024;
      unit += 1;
    }
    return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
  };
  const rate = (value) => `${bytes(value)}/s`;
  const span = (seconds) => {
    if (seconds < 90) return `${Math.round(seconds)} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
    return `${Math.round(seconds / 86400)} days`;
  };
  const ago = (time) => {
    const seconds = (Date.now() - Date.parse(time)) / 1000;
    return Number.isFinite(seconds) ? `${span(Math.max(0, seconds))} ago` : String(time);
  };
  const short = (identity) => {
    const parts = /^spiffe:\/\/[^/]*\/ns\/([^/]+)\/sa\/(.+)$/.exec(identity);
    return parts ? `${parts[1]}/${parts[2]}` : identity;
  };
  const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

  // ---- rates: the difference of two answers

  let before = new Map();
  let asked = 0;
  const trends = { in: [], out: [] };

  const withRates = (groups, now) => {
    const seconds = (now - asked) / 1000;
    const known = new Map();
    for (const group of groups) {
      group.key = JSON.stringify([group.direction, group.peer, group.identity, group.tls]);
      group.bare = !group.tls;
      const last = before.get(group.key);
      // Connections that ended take their bytes with them, so a sum can shrink.
      const since = (value, earlier) => (last && asked && seconds > 0 ? Math.max(0, value - earlier) / seconds : 0);
      group.from = since(group.bytes_in, last && last.bytes_in);
      group.to = since(group.bytes_out, last && last.bytes_out);
      known.set(group.key, group);
    }
    before = known;
    asked = now;
    return groups;
  };

  const sum = (groups, field) => groups.reduce((total, group) => total + group[field], 0);

  const trend = (name, value) => {
    const values = trends[name];
    values.push(value);
    if (values.length > TREND) values.shift();
    const top = Math.max(...values, 1);
    const step = 120 / (TREND - 1);
    const first = 120 - (values.length - 1) * step;
    const points = values.map((each, i) => `${(first + i * step).toFixed(1)},${(22 - (20 * each) / top).toFixed(1)}`);
    at(`trend-${name}`).setAttribute('points', points.join(' '));
  };

  // ---- parts of the page

  const identityOf = (credentials) => {
    const names = list(credentials && credentials.chain[0] && credentials.chain[0].subject_alt_names);
    const spiffe = names.map((name) => name.replace(/^URI:/, '')).find((name) => name.startsWith('spiffe://'));
    return spiffe || names[0] || (credentials && credentials.chain[0] && credentials.chain[0].subject) || 'no certificate';
  };

  const drawHead = (status) => {
    const identity = identityOf(status.credentials);
    say(at('who'), short(identity));
    say(at('about'), `${identity} · mode ${status.mode} · up ${span(status.uptime_seconds)} · version ${status.version}`);
    const { ready } = status.readiness;
    say(at('state'), status.draining ? 'stopping' : ready ? 'ready' : 'not ready');
    mark(at('state'), ready ? 'state' : 'state bad');
    const title = `${ready ? '' : '✗ '}${short(identity)} · bypassctl proxy`;
    if (document.title !== title) document.title = title;
  };

  const alarmsOf = (status, groups, days) => {
    const alarms = list(status.readiness.reasons).map((reason) => ['bad', 'Not ready', reason]);
    const bare = groups.filter((group) => group.bare);
    if (bare.length) {
      const whom = [...new Set(bare.map((group) => group.peer))];
      const names = whom.slice(0, 3).join(', ') + (whom.length > 3 ? ` and ${whom.length - 3} more` : '');
      const open = sum(bare, 'connections');
      alarms.push(['bad', 'Plaintext', `${count(open, 'connection', 'connections')} without encryption, with ${names}`]);
    }
    const left = list(status.circuits).filter((circuit) => ['open', 'half_open'].includes(circuit.state));
    if (left.length) alarms.push(['warn', 'Left alone', `${count(left.length, 'peer', 'peers')} after failures in a row`]);
    if (days !== null && days < 7) alarms.push([days < 1 ? 'bad' : 'warn', 'Certificate', `ends in ${span(days * 86400)}`]);
    for (const note of list(status.readiness.notes)) alarms.push(['warn', 'Note', note]);
    for (const warning of list(status.credentials && status.credentials.warnings)) alarms.push(['warn', 'Certificate', warning]);
    return alarms;
  };

  // Numbers that count down would be read out every time: what is announced is compared without them.
  let alarmed = '';
  const drawAlarms = (alarms) => {
    const box = at('alarms');
    const shape = JSON.stringify(alarms).replace(/\d+/g, '#');
    if (shape === alarmed && box.children.length === alarms.length) return;
    alarmed = shape;
    box.replaceChildren(...alarms.map(([kind, title, text]) => {
      const alarm = make('p', undefined, kind === 'bad' ? 'alarm bad' : 'alarm');
      alarm.append(make('b', title), text);
      return alarm;
    }));
  };

  const rulesOf = (rules) => {
    const families = Object.entries(rules.families || {});
    const faults = list(rules.watch && rules.watch.faults);
    const missing = families.filter(([, rule]) => rule.state === 'missing');
    if (missing.length || faults.length) return ['lost', 'bad', missing.map(([family]) => family).join(', ')];
    const present = families.filter(([, rule]) => rule.state === 'present').map(([family]) => family);
    if (present.length) {
      const repairs = rules.watch && rules.watch.repairs ? `, put back ${count(rules.watch.repairs, 'time', 'times')}` : '';
      return ['in place', 'good', present.join(', ') + repairs];
    }
    return rules.expected ? ['unknown', '', 'not asked yet'] : ['none', '', 'none expected here'];
  };

  const drawTiles = (status, groups, days, rated) => {
    for (const [name, direction] of [['in', 'inbound'], ['out', 'outbound']]) {
      const those = groups.filter((group) => group.direction === direction);
      say(at(`peers-${name}`), number(new Set(those.map((group) => group.peer)).size));
      say(at(`peers-${name}-more`), count(sum(those, 'connections'), 'connection', 'connections'));
    }
    for (const [name, field, total] of [['in', 'from', 'bytes_in'], ['out', 'to', 'bytes_out']]) {
      const now = sum(groups, field);
      say(at(`rate-${name}`), rate(now));
      say(at(`rate-${name}-more`), `${bytes(sum(groups, total))} so far`);
      // The first answer has none to compare it with.
      if (rated) trend(name, now);
    }
    const bare = groups.filter((group) => group.bare);
    say(at('plain'), bare.length ? number(sum(bare, 'connections')) : 'none');
    mark(at('plain'), bare.length ? 'bad' : 'good');
    mark(at('plain').parentNode, bare.length ? 'loud' : '');
    const ever = list(status.plaintext_peers).length;
    say(at('plain-more'), ever ? `${count(ever, 'peer', 'peers')} so far` : 'so far');
    say(at('days'), days === null ? 'none' : days < 2 ? span(Math.max(0, days * 86400)) : count(Math.floor(days), 'day', 'days'));
    mark(at('days'), days === null || days < 1 ? 'bad' : days < 7 ? 'warn' : '');
    say(at('days-more'), days === null ? 'mode disabled' : `until ${status.credentials.chain[0].not_after.slice(0, 10)}`);
    const [rules, kind, more] = rulesOf(status.rules);
    say(at('rules'), rules);
    mark(at('rules'), kind);
    say(at('rules-more'), more);
  };

  // One line an identity and direction, those without encryption first, then the busiest.
  const pathsOf = (groups, direction) => {
    const paths = new Map();
    for (const group of groups.filter((each) => each.direction === direction)) {
      const name = group.bare ? 'plaintext' : short(group.identity || 'unknown');
      const path = paths.get(name) || { name, bare: group.bare, peers: new Set(), rate: 0, connections: 0 };
      path.peers.add(group.peer);
      path.rate += group.from + group.to;
      path.connections += group.connections;
      paths.set(name, path);
    }
    const sorted = [...paths.values()].sort((a, b) => b.bare - a.bare || b.connections - a.connections || (a.name < b.name ? -1 : 1));
    const rest = sorted.splice(MOST_PATHS - 1);
    if (rest.length === 1) sorted.push(...rest);
    if (rest.length > 1) {
      sorted.push({
        name: `${rest.length} other identities`, bare: false, peers: new Set(rest.flatMap((path) => [...path.peers])),
        rate: sum(rest, 'rate'), connections: sum(rest, 'connections'),
      });
    }
    return sorted;
  };

  const drawPaths = (status, groups) => {
    const sides = [pathsOf(groups, 'inbound'), pathsOf(groups, 'outbound')];
    const rows = Math.max(1, sides[0].length, sides[1].length);
    const height = rows * 46 + 12;
    const middle = height / 2;
    const svg = at('paths');
    svg.setAttribute('viewBox', `0 0 900 ${height}`);
    const parts = [];
    sides.forEach((side, right) => {
      const top = middle - (side.length * 46) / 2 + 23;
      const edge = right ? 655 : 245;
      const anchor = right ? 'start' : 'end';
      const x = right ? edge + 8 : edge - 8;
      if (!side.length) parts.push(draw('text', { x, y: middle + 4, 'text-anchor': anchor, class: 'small' }, right ? 'dials nobody' : 'nobody dials it'));
      side.forEach((path, i) => {
        const y = top + i * 46;
        const width = Math.min(12, 1.5 + Math.log2(1 + path.rate / 128));
        const join = middle + (i - (side.length - 1) / 2) * Math.min(10, 36 / side.length);
        const centre = right ? 525 : 375;
        const curve = `M${edge} ${y} C${(edge + centre) / 2} ${y} ${(edge + centre) / 2} ${join} ${centre} ${join}`;
        parts.push(draw('path', { d: curve, 'stroke-width': width.toFixed(1), class: path.bare ? 'bare' : 'tls' }));
        parts.push(draw('text', { x, y: y - 1, 'text-anchor': anchor, class: path.bare ? 'bare-text' : '' }, cut(path.name, 32)));
        const more = `${count(path.peers.size, 'peer', 'peers')}, ${rate(path.rate)}`;
        parts.push(draw('text', { x, y: y + 14, 'text-anchor': anchor, class: 'small' }, more));
      });
    });
    parts.push(draw('rect', { x: 375, y: middle - 26, width: 150, height: 52, rx: 9 }));
    parts.push(draw('text', { x: 450, y: middle - 2, 'text-anchor': 'middle' }, cut(short(identityOf(status.credentials)), 20)));
    parts.push(draw('text', { x: 450, y: middle + 14, 'text-anchor': 'middle', class: 'small' }, 'this pod'));
    svg.replaceChildren(...parts);
  };

  // Rows of a table that stay while what they tell of stays.
  const table = (id, names, numbers) => {
    const rows = new Map();
    return (entries) => {
      const body = at(id);
      const wanted = new Set(entries.map((entry) => entry.key));
      for (const [key, row] of rows) {
        if (!wanted.has(key)) {
          row.remove();
          rows.delete(key);
        }
      }
      let place = body.firstElementChild;
      for (const entry of entries) {
        let row = rows.get(entry.key);
        if (!row) {
          row = make('tr');
          names.forEach((name, i) => {
            const cell = make('td', undefined, i >= numbers ? 'number' : '');
            if (name) cell.dataset.name = name;
            cell.append(make('span'), make('small'));
            row.append(cell);
          });
          rows.set(entry.key, row);
        }
        if (row === place) place = place.nextElementSibling;
        else body.insertBefore(row, place);
        mark(row, entry.bare ? 'bare' : '');
        entry.cells.forEach(([text, more, name], i) => {
          const [main, small] = row.children[i].children;
          say(main, text);
          mark(main, name || '');
          say(small, more || '');
          show(small, Boolean(more));
        });
      }
      show(at(`${id}-none`), entries.length === 0);
      show(body.parentNode, entries.length !== 0);
    };
  };

  const peersTable = table('peers', ['', '', '', 'Connections', 'From it', 'To it'], 3);
  const refusalsTable = table('refusals', ['', '', '', ''], 4);

  let all = false;
  const drawPeers = (groups) => {
    const wanted = at('find').value.trim().toLowerCase();
    const found = groups.filter((group) => !wanted || `${group.identity || 'plaintext'} ${group.peer}`.toLowerCase().includes(wanted));
    // By what does not change from one answer to the next, so that no row jumps away from whoever reads it.
    found.sort((a, b) => b.bare - a.bare || (a.direction < b.direction ? -1 : a.direction > b.direction ? 1 : 0)
      || String(a.identity).localeCompare(String(b.identity)) || a.peer.localeCompare(b.peer, 'en', { numeric: true }));
    const shown = all ? found : found.slice(0, FEW);
    peersTable(shown.map((group) => ({
      key: group.key,
      bare: group.bare,
      cells: [
        [group.direction === 'inbound' ? 'the peer →' : '← this pod', group.direction],
        [group.bare ? group.peer : short(group.identity || 'unknown'), group.bare ? 'nobody knows who it is' : group.peer],
        group.bare ? ['plaintext', '', 'tag bad'] : [group.tls.split(' ').slice(0, 2).join(' '), group.tls.split(' ').slice(2).join(' '), 'tag'],
        [number(group.connections), `oldest ${span(group.oldest_seconds)}`],
        [rate(group.from), bytes(group.bytes_in)],
        [rate(group.to), bytes(group.bytes_out)],
      ],
    })));
    say(at('peers-none'), groups.length ? 'No peer is called like that.' : 'Nobody is connected.');
    show(at('search'), groups.length > 10 || wanted !== '');
    show(at('more'), found.length > FEW);
    say(at('more'), all ? `Show the first ${FEW}` : `Show all ${found.length}`);
  };

  let newest = null;
  const drawRefusals = (refusals) => {
    const seen = new Map();
    refusalsTable(refusals.map((refusal) => {
      const name = JSON.stringify([refusal.at, refusal.peer, refusal.reason]);
      const again = seen.get(name) || 0;
      seen.set(name, again + 1);
      const who = refusal.identity || refusal.looked_like;
      return {
        key: `${name}${again}`,
        cells: [
          [ago(refusal.at), refusal.direction],
          [refusal.identity ? short(refusal.identity) : refusal.peer, refusal.identity ? refusal.peer : who || ''],
          [refusal.reason, '', 'tag bad'],
          [refusal.detail || refusal.hint || '', refusal.detail ? refusal.hint || '' : ''],
        ],
      };
    }));
    const last = refusals[0] ? `${refusals[0].at} ${refusals[0].peer}` : '';
    if (newest !== null && last && last !== newest) say(at('said'), `Refused or failed: ${refusals[0].reason}, ${refusals[0].peer}`);
    newest = last;
  };

  const drawList = (id, entries) => {
    const box = at(id);
    const shape = JSON.stringify(entries);
    if (box.dataset.shape !== shape) {
      box.dataset.shape = shape;
      box.replaceChildren(...entries.map(([text, more]) => {
        const item = make('li', text);
        if (more) item.append(make('small', more));
        return item;
      }));
    }
    show(at(`${id}-none`), entries.length === 0);
  };

  const faultText = (fault) => {
    const { kind, seconds_left: left, peer, direction, percent, ...more } = fault;
    const figures = Object.entries(more).filter(([, value]) => typeof value === 'number').map(([name, value]) => `${number(value)} ${name.replaceAll('_', ' ')}`);
    const whom = `${percent === undefined || percent === null ? 'all' : `${percent} %`} of ${direction || 'all'} connections${peer ? ` with ${peer}` : ''}`;
    return [[kind.replaceAll('_', ' '), ...figures].join(', '), `${whom}; ${span(left)} left`];
  };

  const drawTrust = (credentials) => {
    const facts = [];
    if (credentials) {
      const [leaf] = credentials.chain;
      facts.push(['Identity', identityOf(credentials)], ['Issued by', leaf.issuer], ['Valid until', leaf.not_after]);
      facts.push(['Allowed', list(credentials.allowed).join(', ')]);
      facts.push(['Roots', list(credentials.roots).map((root) => `${root.subject}, until ${root.not_after.slice(0, 10)}`).join('; ')]);
      const { reloads } = credentials;
      if (reloads) facts.push(['Reloaded', `${count(reloads.succeeded, 'time', 'times')}${reloads.failed ? `, refused ${reloads.failed}` : ''}`]);
    } else {
      facts.push(['TLS', 'none: mode disabled']);
    }
    const box = at('trust');
    const shape = JSON.stringify(facts);
    if (box.dataset.shape === shape) return;
    box.dataset.shape = shape;
    box.replaceChildren(...facts.flatMap(([name, value]) => [make('dt', name), make('dd', value)]));
  };

  const drawAll = (status) => {
    const rated = asked > 0;
    const groups = withRates(list(status.connections), performance.now());
    const leaf = status.credentials && status.credentials.chain[0];
    const days = leaf ? (Date.parse(leaf.not_after) - Date.now()) / 86400000 : null;
    drawHead(status);
    drawAlarms(alarmsOf(status, groups, days));
    drawTiles(status, groups, days, rated);
    drawPaths(status, groups);
    drawPeers(groups);
    drawRefusals(list(status.refusals));
    drawList('plain-peers', list(status.plaintext_peers).map((peer) =>
      [peer.peer, `${peer.direction}, ${count(peer.connections, 'connection', 'connections')}, last at ${peer.last}`]));
    drawList('circuits', list(status.circuits).map((circuit) =>
      [circuit.peer, `${circuit.state.replaceAll('_', ' ')}, ${count(circuit.failures, 'failure', 'failures')} in a row`]));
    drawList('faults', list(status.faults).map(faultText));
    drawTrust(status.credentials);
  };

  // ---- asking

  let timer = 0;
  let answered = 0;
  let status = null;

  const ask = async () => {
    clearTimeout(timer);
    try {
      const answer = await fetch('/status', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error(`the sidecar answered ${answer.status}`);
      status = await answer.json();
      answered = Date.now();
      drawAll(status);
      show(at('live'), true);
      show(at('summary'), false);
      document.body.classList.remove('stale');
      say(at('fresh'), 'live');
    } catch {
      // The network's errors are as good as none for whoever reads this.
      document.body.classList.toggle('stale', answered > 0);
      say(at('fresh'), answered ? `no answer for ${span((Date.now() - answered) / 1000)}` : 'no answer yet');
    }
    show(at('fresh'), true);
    if (!document.hidden) timer = setTimeout(ask, EVERY);
  };

  document.addEventListener('visibilitychange', () => {
    clearTimeout(timer);
    if (document.hidden) {
      say(at('fresh'), 'paused');
    } else {
      // What came while nobody looked is no rate.
      asked = 0;
      ask();
    }
  });
  at('find').addEventListener('input', () => status && drawPeers([...before.values()]));
  at('more').addEventListener('click', () => {
    all = !all;
    drawPeers([...before.values()]);
  });
  ask();
})();

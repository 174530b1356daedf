/**
 * One result at large.
 * Uses of `app`: get, post, index, state, update, open, hits, neighbour, hasNeighbour, thumbnail, event `panel`.
 */
import { picture } from './api.js';
import { framed } from './crop.js';
import { h, visible } from './element.js';
import { copy } from './exports.js';
import { isWide, sheet } from './sheet.js';

const LABELS = { width: 'Dimensions', size: 'File size', taken: 'Taken', camera: 'Camera', place: 'Place', rating: 'Rating',
  keywords: 'Keywords', caption: 'Caption', format: 'Format', part: 'Part', mtime: 'Changed', damage: 'Damage' };

export function mount(element, app) {
  let turn = 0;
  const close = () => app.open(null);
  const dialog = sheet(element, close);

  async function show() {
    const mine = ++turn;
    const { id } = app.state;
    if (id === null) {
      dialog.close();
      element.replaceChildren();
      return;
    }
    const wasOpen = element.open;
    try {
      const row = await app.get(`/images/${encodeURIComponent(id)}`);
      if (mine !== turn) return;
      const held = element.contains(document.activeElement) ? document.activeElement.textContent : null;
      element.replaceChildren(...content(row));
      dialog.open();
      const buttons = [...element.querySelectorAll('button')];
      (buttons.find((each) => held && each.textContent === held && !each.disabled) ?? (!wasOpen || held ? buttons[0] : null))?.focus();
    } catch (error) {
      if (mine !== turn) return;
      element.replaceChildren(closing(), h('p', { role: 'alert' }, error.detail ?? String(error)));
      dialog.open();
    }
  }

  const button = (text, onclick, label = text, more = {}) => h('button', { type: 'button', 'aria-label': label, onclick, ...more }, text);
  const closing = () => button('×', close, 'Close');

  async function step(by) {
    const mine = turn;
    const id = await app.neighbour(app.state.id, by);
    if (id !== null && mine === turn) app.open(id);
  }

  function content(row) {
    const isText = row.modality === 'text';
    const status = h('p', { role: 'status', className: 'said' });
    const like = (weight, crop) => {
      const term = { like: row.id, weight, ...(crop && { crop }) };
      app.update({ ...(weight > 0 ? { q: '', terms: [term], find: app.state.find === 'texts' ? null : app.state.find }
        : { terms: [...app.state.terms, term] }), ...(!isWide() && { id: null }) }); // or else it would hide the results
    };
    const act = (work, done) => async () => {
      status.textContent = await work().then(() => done, (error) => error.detail);
    };
    const copyPath = act(() => copy(row.path), 'The path is on the clipboard.');
    const openFolder = act(() => app.post(`/images/${encodeURIComponent(row.id)}/open-folder`), 'The folder is open.');
    const stage = isText ? h('blockquote', {}, visible(row.text ?? '', true)) : framed(row, (crop) => like(1, crop));
    const isGone = row.exists === false;
    const hasFile = !isGone && !app.index.hides_location && !isText;
    const search = app.state.q.trim();
    return [
      h('div', { className: 'panel-bar' }, closing(), button('‹', () => step(-1), 'Previous', { disabled: !app.hasNeighbour(row.id, -1) }),
        button('›', () => step(1), 'Next', { disabled: !app.hasNeighbour(row.id, 1) }), h('h2', {}, visible(row.name))),
      ...(isGone ? [h('p', { className: 'note' }, row.source_exists ? 'The file is not there any more.'
        : `${visible(row.source)} cannot be found: is its drive connected?`)] : []),
      stage.element ?? stage,
      h('div', { className: 'actions' }, button('More like this', () => like(1)), button('Less like this', () => like(-0.5)),
        ...(stage.toggle ? [stage.toggle] : []),
        ...(hasFile ? [h('a', { className: 'button', href: picture(row, 'file'), download: row.name }, 'Download')] : [])),
      ...(stage.form ? [stage.form] : []),
      ...(search ? [phrases(app, row, search)] : []),
      table(row),
      ...same(app, row),
      h('div', { className: 'path' }, h('code', {}, visible(row.path)), button('Copy path', copyPath),
        ...(app.index.can_open_folder ? [button('Open folder', openFolder)] : [])),
      status,
    ];
  }

  addEventListener('keydown', (event) => {
    if (app.state.id === null || event.defaultPrevented) return;
    const isField = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (event.key === 'Escape') close();
    else if (isField || !element.contains(event.target)) return;
    else if (event.key === 'ArrowRight') step(1);
    else if (event.key === 'ArrowLeft') step(-1);
    else return;
    event.preventDefault();
  });
  app.addEventListener('panel', show);
  app.addEventListener('state', () => app.state.id === null || show()); // the caption may be another
  app.addEventListener('hits', () => {
    for (const [label, by] of [['Previous', -1], ['Next', 1]]) {
      const each = element.querySelector(`[aria-label="${label}"]`);
      if (each) each.disabled = !app.hasNeighbour(app.state.id, by);
    }
  });
  show();
}

/** Near-duplicates that are grouped under a result. */
function same(app, { id, modality }) {
  const others = app.hits().find((hit) => hit.id === id)?.duplicates ?? [];
  if (!others.length) return [];
  const face = (each) => (modality === 'text' ? visible(each.name)
    : h('img', { src: app.thumbnail(each, 160), alt: visible(each.name) }));
  return [h('h3', {}, 'Near-duplicates'), h('div', { className: `same-rows ${modality}` }, ...others.map((each) => h('button',
    { type: 'button', onclick: () => app.open(each.id) }, face(each))))];
}

function table(row) {
  const size = (bytes) => (bytes < 1e3 ? `${bytes} bytes` : bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
  const time = (text) => text.slice(0, 16).replace('T', ' ');
  const hasPlace = [row.latitude, row.longitude].every(Number.isFinite); // sources may know half a place
  const values = {
    width: row.width && `${row.width} × ${row.height}`, size: row.size && size(row.size), taken: row.taken && time(row.taken),
    camera: row.camera, place: hasPlace && `${row.latitude.toFixed(4)}, ${row.longitude.toFixed(4)}`,
    rating: row.rating, keywords: row.keywords?.join(', '), caption: row.caption, format: row.format, part: row.part,
    mtime: row.mtime && time(row.mtime), damage: row.damage,
  };
  const all = [...Object.entries(values).map(([name, value]) => [LABELS[name], value]), ...Object.entries(row.columns ?? {}), ['Id', row.id]];
  const body = all.filter(([, value]) => value || value === 0)
    .map(([name, value]) => h('tr', {}, h('th', { scope: 'row' }, visible(name)), h('td', {}, visible(String(value), true))));
  return h('table', {}, h('tbody', {}, ...body));
}

/** The caption, each phrase shaded by what it adds to the score. */
function phrases(app, row, text) {
  const said = h('p', { className: 'phrases', 'aria-live': 'polite' });
  const ask = async () => {
    said.textContent = 'Reading the caption without each phrase.';
    try {
      const answer = await app.post('/phrases', { text, id: row.id });
      const most = Math.max(0.001, ...answer.phrases.map(({ effect }) => Math.abs(effect)));
      const chars = [...text];
      let done = 0;
      said.replaceChildren(...answer.phrases.flatMap(({ start, end, effect }) => {
        const mark = h('mark', { title: `${effect >= 0 ? '+' : '−'}${Math.abs(effect).toFixed(3)}` }, chars.slice(start, end).join(''));
        mark.classList.toggle('less', effect < 0);
        mark.style.setProperty('--share', `${Math.round((60 * Math.abs(effect)) / most)}%`);
        const before = chars.slice(done, start).join('');
        done = end;
        return [before, mark];
      }), chars.slice(done).join(''), h('small', {}, ` cosine ${answer.score.toFixed(3)}`));
    } catch (error) {
      said.textContent = error.detail;
    }
  };
  const button = h('button', { type: 'button', onclick: ask }, 'Which phrases mattered');
  return h('div', {}, button, said);
}

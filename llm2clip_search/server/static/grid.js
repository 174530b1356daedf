/**
 * Results as rows of pictures. All rows are equally high and hold equally many, so that the place of each is known before
 * its data are, and only those in sight are in the document.
 * Uses of `app`: post, search, state, update, open, thumbnail, tell, selected; gives it hits, neighbour, total, generation.
 */
import { h } from './element.js';

const PAGE = 60;
const KEPT_PAGES = 40;
const MOST_TILES = 96;
const GAP = 4;
const LONG_PRESS = 500; // milliseconds until a finger has selected

export function mount(element, app) {
  const count = h('p', { className: 'count', role: 'status' });
  const sheet = h('div', { className: 'sheet', role: 'grid', 'aria-label': 'Results', 'aria-multiselectable': 'true' });
  const scroller = h('div', { className: 'scroller' }, sheet);
  const empty = h('div', { className: 'empty', hidden: true });
  const hints = h('div', { className: 'hints', role: 'status', hidden: true });
  const lost = app.index.indices.flatMap(({ sources }) => sources.filter(({ exists }) => exists === false).map(({ path }) => path));
  const note = h('p', { className: 'note', hidden: !lost.length },
    `${lost.join(', ')} cannot be found: is its drive connected? Its pictures can be searched for, but not opened.`);
  element.append(h('div', { className: 'bar' }, count, sorting(app), views(app)), note, hints, empty, scroller);

  let pages = new Map(); // number -> hits
  let waiting = new Map(); // number -> AbortController
  let total = 0;
  let isWhole = true;
  let across = 4;
  let height = 200;
  let focused = 0;
  let anchor = 0;
  let turn = 0;
  const rows = new Map(); // number -> element
  const hit = (at) => pages.get(Math.floor(at / PAGE))?.[at % PAGE];

  app.hits = () => [...pages.values()].flat();
  app.neighbour = (id, step) => {
    const at = indexOf(id);
    return at < 0 ? null : hit(at + step)?.id ?? null;
  };

  function indexOf(id) {
    for (const [number, hits] of pages) {
      const at = hits.findIndex((each) => each.id === id);
      if (at >= 0) return number * PAGE + at;
    }
    return -1;
  }

  /** Begin again, for another search; the old results stay, dimmed, until the first page is here. */
  async function search() {
    const mine = ++turn;
    waiting.forEach((each) => each.abort());
    waiting = new Map();
    const abort = new AbortController();
    waiting.set(0, abort);
    app.tell('searching', true);
    scroller.classList.add('old');
    try {
      const answer = await app.post('/search', { ...app.search(), k: PAGE }, { signal: abort.signal });
      if (mine !== turn) return;
      pages = new Map([[0, answer.hits]]);
      waiting = new Map();
      app.generation = answer.generation;
      app.selected.clear();
      app.tell('selection');
      take(answer);
      rows.forEach((row) => row.remove());
      rows.clear();
      sheet.classList.toggle('texts', answer.find === 'texts');
      measure();
      focused = Math.min(Math.max(0, total - 1), app.state.top - 1);
      stretch();
      scroller.scrollTop = Math.floor((app.state.top - 1) / across) * (height + GAP);
      draw();
      app.tell('answer', answer);
      import('./advice.js').then((module) => mine === turn && module.advise(hints, app, answer));
    } catch (error) {
      if (mine === turn && error.name !== 'AbortError') app.tell('trouble', error);
    } finally {
      if (mine === turn) {
        scroller.classList.remove('old');
        app.tell('searching', false);
      }
    }
  }

  function take({ total: reached, complete, matches, nothing: why }) {
    total = app.total = reached;
    isWhole = complete;
    const isSearch = app.search().terms.length > 0;
    count.textContent = total ? `${total.toLocaleString()}${isWhole ? '' : ' or more'} ${total === 1 ? 'result' : 'results'}`
      + `${isSearch || matches === total ? '' : ` of ${matches.toLocaleString()}`}${isSearch ? ', best first' : ''}` : '';
    empty.hidden = total > 0 || pages.get(0)?.length > 0;
    scroller.hidden = !empty.hidden;
    if (!empty.hidden) import('./nothing.js').then((module) => module.nothing(empty, app, why));
    app.tell('hits');
  }

  async function load(number) {
    const abort = new AbortController();
    const mine = turn;
    waiting.set(number, abort);
    try {
      const answer = await app.post('/search',
        { ...app.search(), k: PAGE, offset: number * PAGE, generation: app.generation }, { signal: abort.signal });
      if (mine !== turn) return;
      pages.set(number, answer.hits);
      if (pages.size > KEPT_PAGES) {
        const farthest = [...pages.keys()].sort((a, b) => Math.abs(b - number) - Math.abs(a - number))[0];
        pages.delete(farthest);
      }
      if (answer.hits.length || isWhole) take(answer);
      else take({ ...answer, total: Math.min(total, answer.total), complete: true });
      rows.forEach((row, at) => row.isWaiting && fill(row, at));
      draw();
    } catch (error) {
      if (mine === turn && error.name !== 'AbortError') app.tell('trouble', error);
    } finally {
      if (waiting.get(number) === abort) waiting.delete(number);
    }
  }

  function measure() {
    const width = scroller.clientWidth || 800;
    const tall = scroller.clientHeight || 600;
    const isText = sheet.classList.contains('texts');
    across = isText ? Math.max(1, Math.round(width / 420)) : Math.max(2, Math.round(width / 210));
    const size = () => (isText ? 150 : Math.round((width / across) * 0.82));
    while (across > 1 && (Math.ceil(tall / size()) + 3) * across > MOST_TILES) across -= 1;
    height = size();
  }

  /** Give the sheet the height of all rows, and return how many they are. */
  function stretch() {
    const last = Math.ceil((total + (isWhole ? 0 : PAGE)) / across);
    sheet.style.height = `${last * (height + GAP)}px`;
    sheet.setAttribute('aria-rowcount', last);
    sheet.setAttribute('aria-colcount', across);
    return last;
  }

  /** Rows in sight and one more on each side; everything else leaves the document. */
  function draw() {
    const last = stretch();
    const first = Math.max(0, Math.floor(scroller.scrollTop / (height + GAP)) - 1);
    const end = Math.min(last, Math.ceil((scroller.scrollTop + scroller.clientHeight) / (height + GAP)) + 1);
    const keep = Math.floor(focused / across);
    rows.forEach((row, number) => {
      const hasFocus = number === keep && row.contains(document.activeElement);
      if ((number < first || number >= end) && !hasFocus) {
        row.remove();
        rows.delete(number);
      }
    });
    for (let number = first; number < end; number += 1) if (!rows.has(number)) add(number);
    want(first * across, end * across);
  }

  function add(number) {
    const row = h('div', { className: 'row', role: 'row', 'aria-rowindex': number + 1 });
    row.style.top = `${number * (height + GAP)}px`;
    row.style.height = `${height}px`;
    rows.set(number, row);
    fill(row, number);
    const after = [...rows.keys()].filter((each) => each > number).sort((a, b) => a - b)[0];
    sheet.insertBefore(row, rows.get(after) ?? null); // in reading order
  }

  function fill(row, number) {
    const places = Array.from({ length: across }, (_, column) => number * across + column)
      .filter((at) => at < total || (!isWhole && hit(at)));
    row.isWaiting = places.some((at) => !hit(at));
    const had = row.contains(document.activeElement);
    row.replaceChildren(...places.map((at) => tile(at)));
    for (let missing = places.length; missing < across; missing += 1) row.append(h('span', { role: 'presentation', className: 'gap' }));
    if (had) row.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  }

  function tile(at) {
    const found = hit(at);
    const cell = h('div', { className: 'tile', role: 'gridcell', tabIndex: at === focused ? 0 : -1 });
    cell.dataset.at = at;
    if (!found) {
      cell.setAttribute('aria-label', `Result ${at + 1} is being loaded`);
      return cell;
    }
    const isChosen = app.selected.has(found.id);
    cell.setAttribute('aria-selected', isChosen);
    if (app.state.id === found.id) cell.classList.add('open');
    const likely = found.probability === undefined ? '' : `; right with a probability of ${found.probability.toFixed(2)}`;
    const score = found.score === undefined ? null
      : h('span', { className: 'score', title: `Cosine${likely}` }, found.score.toFixed(3));
    if (found.modality === 'text') {
      cell.append(h('p', {}, found.text ?? found.name), h('small', {}, found.name), ...(score ? [score] : []));
      return cell;
    }
    const ratio = (found.width || 4) / (found.height || 3);
    cell.style.flexGrow = Math.min(1.9, Math.max(0.6, ratio));
    const wide = Math.ceil((height * Math.max(1, ratio)) * Math.min(2, devicePixelRatio));
    const image = h('img', { src: app.thumbnail(found, [160, 320, 640].find((each) => each >= Math.min(640, wide))),
      alt: found.caption ?? found.name, decoding: 'async', draggable: false });
    const name = h('span', { className: 'name' }, found.caption ?? found.name);
    image.addEventListener('error', () => {
      cell.classList.add('broken');
      name.remove();
      image.replaceWith(h('p', {}, `${found.name} cannot be shown.`));
    });
    cell.append(image, name, ...(score ? [score] : []));
    if (found.duplicates?.length) cell.append(h('span', { className: 'same' }, `+${found.duplicates.length} alike`));
    return cell;
  }

  let pause = 0;
  /** Fetch the pages of these places; requests for others are given up. A fast scroll passes without any. */
  function want(from, to) {
    const end = isWhole ? Math.min(to, total) : to;
    const numbers = [];
    for (let number = Math.floor(from / PAGE); number * PAGE < end; number += 1) numbers.push(number);
    waiting.forEach((abort, number) => number > 0 && !numbers.includes(number) && abort.abort());
    clearTimeout(pause);
    if (numbers.every((number) => pages.has(number) || waiting.has(number))) return;
    pause = setTimeout(() => numbers.filter((number) => !pages.has(number) && !waiting.has(number)).forEach(load), 60);
  }

  function focusOn(at) {
    focused = Math.min(Math.max(0, total - 1), Math.max(0, at));
    const row = Math.floor(focused / across);
    const top = row * (height + GAP);
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + height > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + height - scroller.clientHeight + GAP;
    draw();
    sheet.querySelectorAll('.tile').forEach((each) => { each.tabIndex = +each.dataset.at === focused ? 0 : -1; });
    sheet.querySelector(`[data-at="${focused}"]`)?.focus({ preventScroll: true });
  }

  function select(at, isRange) {
    const [from, to] = isRange ? [Math.min(anchor, at), Math.max(anchor, at)] : [at, at];
    for (let each = from; each <= to; each += 1) {
      const id = hit(each)?.id;
      if (!id) continue;
      if (!isRange && app.selected.has(id)) app.selected.delete(id);
      else app.selected.add(id);
    }
    if (!isRange) anchor = at;
    app.tell('selection');
  }

  function refresh() {
    sheet.querySelectorAll('.tile').forEach((each) => {
      const found = hit(+each.dataset.at);
      if (found) each.setAttribute('aria-selected', app.selected.has(found.id));
      each.classList.toggle('open', !!found && found.id === app.state.id);
    });
  }

  const placeOf = (event) => {
    const cell = event.target.closest('.tile');
    return cell ? +cell.dataset.at : -1;
  };
  let press = 0;
  let wasHeld = false;
  sheet.addEventListener('pointerdown', (event) => {
    wasHeld = false;
    clearTimeout(press);
    if (event.pointerType !== 'touch' || placeOf(event) < 0) return;
    press = setTimeout(() => {
      wasHeld = true;
      select(placeOf(event), false);
    }, LONG_PRESS);
  });
  for (const end of ['pointerup', 'pointercancel']) sheet.addEventListener(end, () => clearTimeout(press));
  sheet.addEventListener('contextmenu', (event) => wasHeld && event.preventDefault());
  sheet.addEventListener('click', (event) => {
    const at = placeOf(event);
    if (at < 0 || !hit(at) || wasHeld) return;
    focusOn(at);
    if (event.ctrlKey || event.metaKey || event.shiftKey) select(at, event.shiftKey);
    else {
      anchor = at;
      app.open(hit(at).id);
    }
  });
  sheet.addEventListener('keydown', (event) => {
    const at = placeOf(event);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = across * Math.max(1, Math.floor(scroller.clientHeight / (height + GAP)));
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, PageDown: page, PageUp: -page,
      Home: -at, End: total - 1 - at };
    if (event.key in moves) {
      const to = at + moves[event.key];
      if (Math.abs(moves[event.key]) !== across || (to >= 0 && to < total)) focusOn(to);
    } else if (event.key === 'Enter' && hit(at)) app.open(hit(at).id);
    else if (event.key === 'x' || event.key === ' ') select(at, event.shiftKey);
    else return;
    event.preventDefault();
  });

  let still = 0;
  scroller.addEventListener('scroll', () => {
    draw();
    clearTimeout(still);
    still = setTimeout(() => {
      const top = Math.floor((scroller.scrollTop + height / 2) / (height + GAP)) * across + 1;
      if (top !== app.state.top && app.state.view === 'grid') app.update({ top });
    }, 300);
  }, { passive: true });

  new ResizeObserver(() => {
    const was = [across, height].join();
    const top = Math.floor(scroller.scrollTop / (height + GAP)) * across;
    measure();
    if (was === [across, height].join()) return draw();
    const had = sheet.contains(document.activeElement);
    rows.forEach((row) => row.remove());
    rows.clear();
    draw();
    scroller.scrollTop = Math.floor(top / across) * (height + GAP);
    draw();
    return had && focusOn(focused);
  }).observe(scroller);

  const showView = () => {
    element.dataset.view = app.state.view;
    requestAnimationFrame(draw);
  };
  app.addEventListener('state', search);
  app.addEventListener('view', showView);
  app.addEventListener('selection', refresh);
  app.addEventListener('panel', ({ detail }) => {
    refresh();
    const at = app.state.id === null ? indexOf(detail?.before) : indexOf(app.state.id);
    if (at >= 0) focused = at;
    if (at >= 0 && app.state.id === null) requestAnimationFrame(() => focusOn(at));
  });
  showView();
  search();
}

function sorting(app) {
  const orders = [['', 'Newest first'], ['id', 'Oldest first'], ['-taken', 'Taken last'], ['taken', 'Taken first'],
    ['-size', 'Largest file'], ['path', 'Path']].filter(([name]) => !name || app.columns.some((each) => each.name === name.replace('-', '')));
  const select = h('select', { 'aria-label': 'Order', onchange: () => app.update({ sort: select.value || null }) },
    ...orders.map(([value, text]) => h('option', { value }, text)));
  const show = () => {
    select.hidden = app.search().terms.length > 0;
    select.value = app.state.sort ?? '';
  };
  app.addEventListener('state', show);
  show();
  return select;
}

function views(app) {
  const buttons = [['grid', 'Pictures'], ['map', 'Map'], ['places', 'Places']].map(([view, text]) => {
    const button = h('button', { type: 'button', onclick: () => app.update({ view }) }, text);
    const show = () => button.setAttribute('aria-pressed', app.state.view === view);
    app.addEventListener('view', show);
    show();
    return button;
  }).slice(0, app.index.hides_location ? 2 : 3);
  return h('div', { className: 'views', role: 'group', 'aria-label': 'View' }, ...buttons);
}

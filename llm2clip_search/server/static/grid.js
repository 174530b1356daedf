/**
 * Results as rows of pictures. All rows are equally high and hold equally many, so that the place of each is known before
 * its data are, and only those in sight are in the document.
 * Uses of `app`: post, search, state, update, open, thumbnail, tell, selected, dock; gives it hits, neighbour, hasNeighbour,
 * total and generation.
 */
import { pause } from './api.js';
import { choices } from './bar.js';
import { h } from './element.js';
import { tile } from './tile.js';

const PAGE = 60;
const KEPT_PAGES = 40;
const MOST_TILES = 96;
const GAP = 4;
const LONG_PRESS = 500; // milliseconds until a finger has selected

export function mount(element, app) {
  const count = h('p', { className: 'count', role: 'status' });
  const sheet = h('div', { className: 'sheet', role: 'grid', 'aria-label': 'Results', 'aria-multiselectable': 'true' });
  const scroller = h('div', { className: 'scroller', hidden: true }, sheet); // until there is anything to show
  const empty = h('div', { className: 'empty', hidden: true });
  const hints = h('div', { className: 'hints', role: 'status', hidden: true });
  const lost = app.index.indices.flatMap(({ sources }) => sources.filter(({ exists }) => exists === false).map(({ path }) => path));
  const note = h('p', { className: 'note', hidden: !lost.length },
    `${lost.join(', ')} cannot be found: is its drive connected? Its pictures can be searched for, but not opened.`);
  const doubt = h('div', { className: 'doubt', role: 'status' });
  element.prepend(h('div', { className: 'bar' }, count, ...choices(app)), note, hints, empty, scroller);
  app.dock.prepend(doubt);

  let pages = new Map(); // number -> hits
  let waiting = new Map(); // number -> what is being loaded: abort(), done
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
  /** Whether there is a result so many places from another, as far as is known. */
  app.hasNeighbour = (id, step) => {
    const at = indexOf(id);
    return at >= 0 && at + step >= 0 && (at + step < total || !isWhole);
  };

  /** The id of that result, which comes into sight and is loaded if need be; null if there is none. */
  app.neighbour = async (id, step) => {
    if (!app.hasNeighbour(id, step)) return null;
    const at = indexOf(id) + step;
    reveal(at);
    const page = Math.floor(at / PAGE);
    if (!hit(at)) await (waiting.get(page)?.done ?? load(page));
    return hit(at)?.id ?? null;
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
    waiting.set(0, { abort: () => abort.abort() });
    app.tell('searching', true);
    scroller.classList.add('old');
    try {
      const [answer, { advise }] = await Promise.all([
        app.post('/search', { ...app.search(), k: PAGE }, { signal: abort.signal }), import('./advice.js')]);
      if (mine !== turn) return;
      pages = new Map([[0, answer.hits]]);
      waiting = new Map();
      app.generation = answer.generation;
      app.selected.clear();
      app.tell('selection');
      take(answer);
      advise({ hints, doubt }, app, answer);
      sheet.classList.toggle('texts', answer.find === 'texts');
      measure();
      await pause(); // the browser has laid out the page; rows are another task
      if (mine !== turn) return;
      rows.forEach((row) => row.remove());
      rows.clear();
      focused = Math.min(Math.max(0, total - 1), app.state.top - 1);
      stretch();
      scroller.scrollTop = Math.floor((app.state.top - 1) / across) * (height + GAP);
      draw();
      app.tell('answer', answer);
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

  function load(number) {
    const abort = new AbortController();
    const done = loaded(number, abort.signal).finally(() => waiting.get(number)?.done === done && waiting.delete(number));
    waiting.set(number, { abort: () => abort.abort(), done });
    return done;
  }

  async function loaded(number, signal) {
    const mine = turn;
    try {
      const answer = await app.post('/search',
        { ...app.search(), k: PAGE, offset: number * PAGE, generation: app.generation }, { signal });
      if (mine !== turn) return;
      pages.set(number, answer.hits);
      if (pages.size > KEPT_PAGES) {
        const farthest = [...pages.keys()].sort((a, b) => Math.abs(b - number) - Math.abs(a - number))[0];
        pages.delete(farthest);
      }
      if (answer.hits.length || isWhole) take(answer);
      else take({ ...answer, total: Math.min(total, answer.total), complete: true });
      for (const [at, row] of [...rows]) {
        if (!row.isWaiting || rows.get(at) !== row) continue;
        fill(row, at);
        await pause(); // a row is a task of its own
        if (mine !== turn) return;
      }
      draw();
    } catch (error) {
      if (mine === turn && error.name !== 'AbortError') app.tell('trouble', error);
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
    row.replaceChildren(...places.map((at) => tile(app, hit(at), at, { height, isFocused: at === focused })));
    for (let missing = places.length; missing < across; missing += 1) row.append(h('span', { role: 'presentation', className: 'gap' }));
    if (had) row.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  }

  let timer = 0;
  /** Fetch the pages of these places; requests for others are given up. A fast scroll passes without any. */
  function want(from, to) {
    const end = isWhole ? Math.min(to, total) : to;
    const numbers = [];
    for (let number = Math.floor(from / PAGE); number * PAGE < end; number += 1) numbers.push(number);
    waiting.forEach((each, number) => number > 0 && !numbers.includes(number) && each.abort());
    clearTimeout(timer);
    if (numbers.every((number) => pages.has(number) || waiting.has(number))) return;
    timer = setTimeout(() => numbers.filter((number) => !pages.has(number) && !waiting.has(number)).forEach(load), 60);
  }

  /** Scroll as little as brings a place into sight. */
  function reveal(at) {
    const top = Math.floor(at / across) * (height + GAP);
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + height > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + height - scroller.clientHeight + GAP;
    draw();
  }

  function focusOn(at) {
    focused = Math.min(Math.max(0, total - 1), Math.max(0, at));
    reveal(focused);
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
    const isMore = event.pointerType === 'touch' && app.selected.size > 0;
    if (isMore || event.ctrlKey || event.metaKey || event.shiftKey) select(at, event.shiftKey);
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
    else if (/^[xX ]$/.test(event.key)) select(at, event.shiftKey);
    else if (event.key === 'Escape' && app.selected.size && app.state.id === null) {
      app.selected.clear();
      app.tell('selection');
    } else return;
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

/** The page: its state, and the parts around it. */
import * as api from './api.js';
import { h } from './element.js';
import * as grid from './grid.js';
import * as query from './query.js';
import { isWide } from './sheet.js';
import { EMPTY, SHOWN, filterOf, read, searchOf, write } from './state.js';
import * as states from './states.js';

/** What parts use: requests, the state, and events: `state` (other results), `panel`, `view`, `hits`, `selection`. */
class App extends EventTarget {
  state = read(location.search);
  index = null;
  selected = new Set();
  total = 0;
  url = api.url;
  thumbnail = api.thumbnail;
  dock = place('dock');
  hits = () => [];
  hasNeighbour = () => false;

  get columns() { return this.index.columns; }
  get indices() { return this.index.indices.length; }
  get(path) { return api.request('GET', path); }
  post(path, body, options) { return api.request('POST', path, body, options); }
  put(path, body) { return api.request('PUT', path, body); }
  delete(path) { return api.request('DELETE', path); }

  query() { return write({ ...this.state, id: null, top: 1 }); }
  search() { return searchOf(this.state); }
  filter() { return filterOf(this.state); }
  tell(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }
  open(id) { this.update({ id }); }
  go(text) { this.become(read(text)); }
  addConditions(...more) { this.update({ conditions: [...this.state.conditions, ...more] }); }

  /** Change the state: a new entry of the history, unless only `top` changes. */
  update(changes) {
    const isOther = Object.keys(changes).some((name) => !SHOWN.includes(name));
    this.become({ ...this.state, ...(isOther && { top: 1 }), ...changes });
  }

  become(state) {
    const place = `?${write(state)}`;
    const onlyTop = write({ ...state, top: 1 }) === write({ ...this.state, top: 1 });
    if (place !== (location.search || '?')) history[onlyTop ? 'replaceState' : 'pushState'](null, '', place);
    this.follow(state);
  }

  /** Tell what differs from the state before. */
  follow(state) {
    const before = this.state;
    this.state = state;
    const found = ({ ...each }) => write({ ...each, id: null, view: 'grid', top: 1 });
    document.title = state.q ? `${state.q.slice(0, 60)} – Search` : 'Search';
    if (found(before) !== found(state)) this.tell('state');
    if (before.view !== state.view) this.tell('view');
    if (before.id !== state.id) this.tell('panel', { before: before.id });
  }
}

const place = (id) => document.getElementById(id);
const app = new App();
let styles = null;
const theme = localStorage.getItem('theme');
if (theme) document.documentElement.dataset.theme = theme;

addEventListener('popstate', () => app.follow({ ...EMPTY, ...read(location.search) }));
states.mount(document.querySelector('.searching'), app);
query.mount(place('query'), app);
app.addEventListener('ready', async () => {
  const isFirst = !app.index;
  try {
    app.index = await app.get('/index');
  } catch (error) {
    return app.tell('trouble', error);
  }
  if (!isFirst) return app.tell('state');
  grid.mount(place('results'), app);
  views(place('results'));
  return app.tell('known');
});
const known = new Promise((done) => { app.addEventListener('known', done, { once: true }); });
part('panel', place('panel'), () => app.state.id !== null, 'panel');
part('selection', app.dock, () => app.selected.size > 0, 'selection');
part('side', place('side'), (event) => (event ? event.type === 'side' || event.detail.kind === 'bad-condition'
  : isWide() && localStorage.getItem('side') === 'true'), 'side', 'trouble');

/** The module of a part, with the styles that all parts share. */
async function loaded(name) {
  styles ??= new Promise((done) => {
    document.head.append(h('link', { rel: 'stylesheet', href: '/static/parts.css', onload: done, onerror: done }));
  });
  const [module] = await Promise.all([import(`./${name}.js`), styles]);
  return module;
}

/** A part that is loaded when it is wanted: now, or at one of the events, which it then gets. It is mounted when the index is known. */
function part(name, element, isWanted, ...events) {
  const load = async (event) => {
    if (!isWanted(event)) return;
    events.forEach((each) => app.removeEventListener(each, load));
    const [module] = await Promise.all([loaded(name), known]);
    module.mount(element, app, event);
  };
  events.forEach((each) => app.addEventListener(each, load));
  load();
}

/** The map and the places take the grid's place; their modules are loaded when they are first wanted. */
function views(results) {
  const other = h('div', { className: 'view', hidden: true });
  app.dock.before(other);
  let end = null;
  const show = async () => {
    end?.();
    end = null;
    const { view } = app.state;
    other.hidden = view === 'grid';
    other.replaceChildren();
    if (view === 'grid') return;
    const module = await loaded(view);
    if (view === app.state.view) end = module.mount(other, app);
  };
  app.addEventListener('view', show);
  show();
}

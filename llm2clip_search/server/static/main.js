/** The page: its state, and the parts around it. */
import * as api from './api.js';
import { h } from './element.js';
import * as grid from './grid.js';
import * as query from './query.js';
import * as side from './side.js';
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
  hits = () => [];
  neighbour = () => null;

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

const app = new App();
const place = (id) => document.getElementById(id);
const theme = localStorage.getItem('theme');
if (theme) document.documentElement.dataset.theme = theme;

addEventListener('popstate', () => app.follow({ ...EMPTY, ...read(location.search) }));
states.mount(place('states'), app);
query.mount(place('query'), app);
app.addEventListener('ready', async () => {
  const isFirst = !app.index;
  try {
    app.index = await app.get('/index');
  } catch (error) {
    return app.tell('trouble', error);
  }
  if (!isFirst) return app.tell('state');
  side.mount(place('side'), app);
  grid.mount(place('results'), app);
  views(place('results'));
  panel();
  return null;
});

/** The panel's module is loaded when a result is first opened. */
async function panel() {
  if (app.state.id === null) return app.addEventListener('panel', panel, { once: true });
  const module = await import('./panel.js');
  return module.mount(place('panel'), app);
}

/** The map and the places take the grid's place; their modules are loaded when they are first wanted. */
function views(results) {
  const other = h('div', { className: 'view', hidden: true });
  results.append(other);
  let end = null;
  const show = async () => {
    end?.();
    end = null;
    const { view } = app.state;
    other.hidden = view === 'grid';
    other.replaceChildren();
    if (view === 'grid') return;
    const module = await import(`./${view}.js`);
    if (view === app.state.view) end = module.mount(other, app);
  };
  app.addEventListener('view', show);
  show();
}

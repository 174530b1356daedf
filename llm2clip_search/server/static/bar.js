/** What stands beside the count of results: what is found, its order, and the views. Uses of `app`: index, columns, state, search, update. */
import { h } from './element.js';

const ORDERS = [['', 'Newest'], ['id', 'Oldest'], ['-taken', 'Last taken'], ['taken', 'First taken'], ['-size', 'Largest file'],
  ['path', 'Path']];

export function choices(app) {
  return [...(app.index.holds.length > 1 ? [kinds(app)] : []), sorting(app), views(app)];
}

const select = (label, values, onchange) => h('select', { 'aria-label': label, onchange },
  ...values.map(([value, text]) => h('option', { value }, text)));

/** Images or texts, of an index that holds both; the answer says which fit if nobody has chosen. */
function kinds(app) {
  const kind = select('Find', [['images', 'Images'], ['texts', 'Texts']], () => app.update({ find: kind.value }));
  app.addEventListener('answer', ({ detail }) => { kind.value = detail.find; });
  return kind;
}

function sorting(app) {
  const has = (name) => !name || app.columns.some((each) => each.name === name.replace('-', ''));
  const order = select('Order', ORDERS.filter(([name]) => has(name)), () => app.update({ sort: order.value || null }));
  const show = () => {
    order.hidden = app.search().terms.length > 0;
    order.value = app.state.sort ?? '';
  };
  app.addEventListener('state', show);
  show();
  return order;
}

function views(app) {
  const buttons = [['grid', 'Results'], ['map', 'Map'], ['places', 'Places']].map(([view, text]) => {
    const button = h('button', { type: 'button', onclick: () => app.update({ view }) }, text);
    const show = () => button.setAttribute('aria-pressed', app.state.view === view);
    app.addEventListener('view', show);
    show();
    return button;
  }).slice(0, app.index.hides_location ? 2 : 3);
  return h('div', { className: 'views', role: 'group', 'aria-label': 'View' }, ...buttons);
}

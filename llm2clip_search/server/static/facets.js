/** Counts of values, as buttons that become conditions. Uses of `app`: post, filter(), addConditions, event `state`. */
import { h } from './element.js';
import { histogram } from './histogram.js';

export function mount(element, app) {
  const status = h('p', { role: 'status' });
  const body = h('div', { className: 'facets' });
  element.replaceChildren(status, body);
  let turn = 0;

  async function show() {
    const mine = ++turn;
    try {
      const { facets, partial } = await app.post('/facets', app.filter());
      if (mine !== turn) return;
      status.textContent = partial ? 'Some columns are left out, because counting them took too long.' : '';
      body.replaceChildren(...facets.map(facet).filter(Boolean));
    } catch (error) {
      if (mine !== turn) return;
      status.textContent = error.kind === 'bad-condition' ? '' : error.detail ?? 'The server cannot be reached.'; // said above
    }
  }

  function facet({ column, kind, values, bins, missing, distinct }) {
    if (kind === 'number' || kind === 'time') {
      return bins?.length > 1 ? histogram(column, kind, bins, app.addConditions) : null;
    }
    if (!values?.length) return null;
    const op = kind === 'list' ? 'has' : '=';
    const rows = values.map(({ value, count }) => h('li', {}, h('button', { type: 'button',
      onclick: () => app.addConditions({ column, op, value }) }, `${value} `, h('span', {}, count.toLocaleString()))));
    const rest = distinct > values.length ? `${(distinct - values.length).toLocaleString()} more values. ` : '';
    const none = missing ? `${missing.toLocaleString()} without.` : '';
    return h('details', { open: true }, h('summary', {}, column), h('ul', {}, ...rows), h('p', {}, rest + none));
  }

  app.addEventListener('state', show);
  show();
  return () => app.removeEventListener('state', show);
}

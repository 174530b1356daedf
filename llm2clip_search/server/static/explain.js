/** How the search was done: the plan of each index, and the time of each stage. Uses of `app`: post, search, event `answer`. */
import { h } from './element.js';

export function mount(element, app) {
  const details = element.closest('details');

  async function show() {
    if (!details.open) return;
    const asked = JSON.stringify(app.search());
    try {
      const answer = await app.post('/search', { ...app.search(), k: 1, explain: true });
      if (asked === JSON.stringify(app.search())) element.replaceChildren(table(answer));
    } catch (error) {
      element.replaceChildren(h('p', { role: 'alert' }, error.detail));
    }
  }

  details.addEventListener('toggle', show);
  app.addEventListener('answer', show);
}

function table({ explain: { model, plans }, seconds, matches }) {
  const rows = [['Model', model], ['Matching rows', matches.toLocaleString()]];
  for (const { index, strategy, device, reason, candidates, recall } of plans) {
    rows.push(['Index', index], ['Plan', `${strategy} on ${device}: ${reason}`]);
    if (candidates) rows.push(['Candidates', candidates.toLocaleString()]);
    if (recall) rows.push(['Measured recall', recall.toFixed(3)]);
  }
  for (const [stage, time] of Object.entries(seconds)) rows.push([`Time to ${stage}`, `${(1000 * time).toFixed(1)} ms`]);
  return h('table', {}, h('tbody', {}, ...rows.map(([name, value]) => h('tr', {}, h('th', { scope: 'row' }, name), h('td', {}, value)))));
}

/** What is said, and offered, when nothing was found. Uses of `app`: state, update, search. */
import { h } from './element.js';
import { words } from './filters.js';
import { EMPTY } from './state.js';

export function nothing(element, app, why) {
  const { conditions, where, area, find, min } = app.state;
  const offers = [];
  const offer = (text, changes) => offers.push(h('li', {}, h('button', { type: 'button', onclick: () => app.update(changes) }, text)));
  const rows = (count) => `${count.toLocaleString()} ${count === 1 ? 'result' : 'results'}`;
  for (const { condition, where: sql, matches } of (why?.without ?? []).filter((each) => each.matches)) {
    if (condition) {
      const at = conditions.findIndex((each) => JSON.stringify(each) === JSON.stringify(condition)
        || words(each) === words(condition));
      if (at >= 0) offer(`Without “${words(condition)}”: ${rows(matches)}`, { conditions: conditions.toSpliced(at, 1) });
    } else if (sql) offer(`Without “${sql}”: ${rows(matches)}`, { where: '' });
    else if (area) offer(`Without the area on the map: ${rows(matches)}`, { area: null });
  }
  const best = why?.best_score ?? null;
  if (min !== null) offer(best === null ? 'Without a minimum score' : `Without a minimum score: the best is ${best.toFixed(3)}`, { min: null });
  if (find) offer('Among images and texts', { find: null });
  const filtered = conditions.length || where || area;
  if (conditions.length + !!where + !!area > 1) offer('Without any condition', { conditions: EMPTY.conditions, where: '', area: null });
  const reason = why?.rows === 0 ? 'The index is empty.'
    : best !== null ? 'No result reaches the minimum score.'
      : filtered ? conditions.length + !!where + !!area > 1 ? 'No result meets all conditions.' : 'No result meets the condition.' : 'Nothing was found.';
  element.replaceChildren(h('h2', {}, reason), h('ul', {}, ...offers));
}

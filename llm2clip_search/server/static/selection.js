/** How many results are selected, and what can be done with them. Uses of `app`: selected, tell, and those of the exports. */
import { h } from './element.js';
import { buttons } from './exports.js';

export function mount(element, app) {
  const count = h('p', { role: 'status' });
  const said = h('p', { role: 'status', className: 'said' });
  const clear = () => {
    app.selected.clear();
    app.tell('selection');
  };
  const bar = h('div', { className: 'float', role: 'group', 'aria-label': 'Selection' }, count,
    ...buttons(app, said, () => [...app.selected]), h('button', { type: 'button', onclick: clear }, 'Clear'), said);
  element.append(bar);
  const show = () => {
    bar.hidden = !app.selected.size;
    count.textContent = `${app.selected.size.toLocaleString()} selected`;
    said.textContent = '';
  };
  app.addEventListener('selection', show);
  show();
}

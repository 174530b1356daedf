/** Saved searches. Uses of `app`: get, post, put, delete, query() (the page's URL query), go(query). */
import { h } from './element.js';

export function mount(element, app) {
  const name = h('input', { required: true, maxLength: 200, 'aria-label': 'Name of this search' });
  const status = h('p', { role: 'status' });
  const list = h('ul', { className: 'saved' });
  const run = async (work) => {
    try {
      status.textContent = '';
      await work();
      await show();
    } catch (error) {
      status.textContent = error.detail ?? 'The server cannot be reached.';
    }
  };
  const save = (event) => {
    event.preventDefault();
    run(async () => {
      await app.post('/saved', { name: name.value, state: app.query() });
      name.value = '';
    });
  };
  element.replaceChildren(h('form', { onsubmit: save }, name, h('button', {}, 'Save this search')), status, list);

  async function show() {
    const { saved } = await app.get('/saved');
    list.replaceChildren(...saved.map(row));
    if (!saved.length) list.append(h('li', {}, 'No search is saved yet.'));
  }

  function row({ id, name: called, state }) {
    const path = `/saved/${id}`;
    const rename = () => {
      const field = h('input', { value: called, required: true, maxLength: 200, 'aria-label': `New name of ${called}` });
      const submit = (event) => {
        event.preventDefault();
        run(() => app.put(path, { name: field.value }));
      };
      item.replaceChildren(h('form', { onsubmit: submit }, field, h('button', {}, 'Rename'),
        h('button', { type: 'button', onclick: () => run(async () => {}) }, 'Cancel')));
      field.select();
    };
    const button = (text, onclick) => h('button', { type: 'button', 'aria-label': `${text} ${called}`, onclick }, text);
    const item = h('li', {}, h('a', { href: `?${state}`, onclick: (event) => {
      event.preventDefault();
      app.go(state);
    } }, called), ' ', button('Rename', rename), button('Delete', () => run(() => app.delete(path))));
    return item;
  }

  run(async () => {});
}

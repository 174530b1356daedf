/** Results as files. Uses of `app`: url, search() (the body of the present search), selected (a Set of ids), total. */
import { h } from './element.js';

const MOST_FILES = 1000;

export function mount(element, app) {
  const status = h('p', { role: 'status' });
  const which = h('select', { 'aria-label': 'Which results' }, h('option', { value: 'all' }, 'All results'));
  if (app.selected.size) which.prepend(h('option', { value: 'some', selected: true }, `Selected (${app.selected.size})`));
  const isSome = () => which.value === 'some';

  /** Selected rows are all results of the search with other rows left out. */
  const body = () => {
    const { cursor, offset, generation, ...search } = app.search();
    if (!isSome()) return { ...search, k: 100_000 };
    return { ...search, k: 100_000, ids: [...app.selected] };
  };

  async function fetched(format) {
    status.textContent = 'The results are being collected.';
    const response = await fetch(app.url(`/search?format=${format}`), { method: 'POST', credentials: 'same-origin',
      headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body()) });
    if (!response.ok) throw await response.json();
    status.textContent = '';
    return response.blob();
  }

  const guarded = (work) => async () => {
    try {
      await work();
    } catch (error) {
      status.textContent = error.detail ?? 'The server cannot be reached.';
    }
  };

  const download = (format, name) => guarded(async () => {
    const href = URL.createObjectURL(await fetched(format));
    h('a', { href, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  });

  const copy = guarded(async () => {
    const text = await (await fetched('paths')).text();
    await navigator.clipboard.writeText(text);
    status.textContent = `${text.split('\n').length - 1} paths are on the clipboard.`;
  });

  const zip = guarded(async () => {
    let ids = [...app.selected];
    if (!isSome()) {
      const lines = (await (await fetched('ndjson')).text()).split('\n').filter(Boolean);
      ids = lines.map((line) => JSON.parse(line).id);
    }
    if (ids.length > MOST_FILES) {
      status.textContent = `An archive holds at most ${MOST_FILES.toLocaleString()} files, but these are`
        + ` ${ids.length.toLocaleString()}: select fewer, or take their paths.`;
      return;
    }
    const form = h('form', { method: 'post', action: app.url('/archive'), hidden: true },
      h('input', { name: 'ids', value: ids.join(',') }));
    element.append(form);
    form.submit();
    form.remove();
  });

  const button = (text, onclick) => h('button', { type: 'button', onclick }, text);
  element.replaceChildren(h('label', {}, 'Export ', which), button('CSV', download('csv', 'results.csv')),
    button('NDJSON', download('ndjson', 'results.ndjson')), button('Paths', download('paths', 'results.txt')),
    button('Copy paths', copy), button('Zip of the files', zip), status);
  if (app.total > MOST_FILES) {
    status.textContent = `There are more than ${MOST_FILES.toLocaleString()} results; exports take a while.`;
  }
}

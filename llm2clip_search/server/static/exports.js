/** Results as files. Uses of `app`: url, index, total, and search(), the body of the present search. */
import { ApiError, ask } from './api.js';
import { h } from './element.js';

const MOST = 100_000;
const MOST_FILES = 1000;

/** Everything that was found. */
export function mount(element, app) {
  const status = h('p', { role: 'status' });
  if (app.total > MOST_FILES) {
    status.textContent = `There are more than ${MOST_FILES.toLocaleString()} results; exports take a while.`;
  }
  element.replaceChildren(...buttons(app, status, () => null), status);
}

/** Put a text on the clipboard. Raises an `ApiError` if the browser does not allow it, as on pages over plain HTTP. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    throw new ApiError({ kind: 'clipboard', detail: 'The browser does not allow this page to write to the clipboard.' });
  }
}

/** A button for each kind of file; `ids` gives the rows, or null for all results, and `status` shows what happens. */
export function buttons(app, status, ids) {
  const fetched = async (format) => {
    status.textContent = 'The results are being collected.';
    const some = ids();
    const response = await ask('POST', `/search?format=${format}`, { ...app.search(), k: MOST, ...(some && { ids: some }) });
    const blob = await response.blob();
    status.textContent = '';
    return blob;
  };
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

  const copyPaths = guarded(async () => {
    const text = await (await fetched('paths')).text();
    await copy(text);
    const count = text.split('\n').length - 1;
    status.textContent = count === 1 ? 'The path is on the clipboard.' : `${count.toLocaleString()} paths are on the clipboard.`;
  });

  const zip = guarded(async () => {
    let some = ids();
    if (!some) {
      const lines = (await (await fetched('ndjson')).text()).split('\n').filter(Boolean);
      some = lines.map((line) => JSON.parse(line).id);
    }
    if (some.length > MOST_FILES) {
      status.textContent = `An archive holds at most ${MOST_FILES.toLocaleString()} files, but these are`
        + ` ${some.length.toLocaleString()}: select fewer, or take their paths.`;
      return;
    }
    const form = h('form', { method: 'post', action: app.url('/archive'), hidden: true },
      h('input', { name: 'ids', value: some.join(',') }));
    document.body.append(form);
    form.submit();
    form.remove();
  });

  const button = (text, onclick) => h('button', { type: 'button', onclick }, text);
  return [button('CSV', download('csv', 'results.csv')), button('NDJSON', download('ndjson', 'results.ndjson')),
    button('Paths', download('paths', 'results.txt')), button('Copy paths', copyPaths),
    ...(app.index.hides_location ? [] : [button('Zip of originals', zip)])];
}

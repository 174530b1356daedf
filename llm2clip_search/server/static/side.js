/** Filters, counts, saved searches and exports beside the results; each is loaded when the column is first opened. */
import { h } from './element.js';

export function mount(element, app) {
  const toggle = document.getElementById('toggle-side');
  const part = (name) => h('div', { className: name });
  const [filters, facets, saved, exports, explain] = ['part-filters', 'part-facets', 'part-saved', 'part-exports', 'part-explain'].map(part);
  const section = (title, open, ...children) => h('details', { open, className: 'section' }, h('summary', {}, title), ...children);
  let ready = null;

  const make = async () => {
    element.replaceChildren(h('div', { className: 'side-bar' }, h('h2', {}, 'Filters'),
      h('button', { type: 'button', 'aria-label': 'Close filters', onclick: () => open(false) }, '×')),
    filters, options(app), section('Values', true, facets), section('Saved searches', false, saved), section('Export', false, exports),
    section('How this was searched', false, explain));
    const names = ['filters', 'facets', 'saved', 'exports', 'explain'];
    const modules = await Promise.all(names.map((name) => import(`./${name}.js`)));
    modules.slice(0, 3).forEach((module, at) => module.mount([filters, facets, saved][at], app));
    modules[4].mount(explain, app);
    const again = () => modules[3].mount(exports, app);
    app.addEventListener('selection', again);
    app.addEventListener('answer', again);
    again();
  };

  async function open(value, { keep = true } = {}) {
    element.hidden = !value;
    toggle.setAttribute('aria-expanded', value);
    if (keep) localStorage.setItem('side', value);
    if (value) await (ready ??= make());
    else if (element.contains(document.activeElement)) toggle.focus();
  }
  const isWide = () => matchMedia('(min-width: 900px)').matches;
  app.addEventListener('side', async () => {
    await open(element.hidden);
    if (!element.hidden && !isWide()) element.querySelector('button')?.focus();
  });
  element.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    event.preventDefault();
    open(false);
  });

  /** A wrong condition is shown at its field. */
  app.addEventListener('trouble', async ({ detail }) => {
    if (detail.kind !== 'bad-condition') return;
    await open(true, { keep: false });
    const field = filters.querySelector('textarea');
    const trouble = filters.querySelector('[role="alert"]');
    if (!field || !trouble) return;
    field.closest('details').open = true;
    field.value = app.state.where;
    field.setAttribute('aria-invalid', 'true');
    field.setAttribute('aria-describedby', trouble.id);
    trouble.textContent = [detail.detail, detail.hint].filter(Boolean).join(' ');
  });
  app.addEventListener('answer', () => {
    filters.querySelectorAll('[aria-invalid]').forEach((each) => each.removeAttribute('aria-invalid'));
    const trouble = filters.querySelector('[role="alert"]');
    if (trouble) trouble.textContent = '';
  });
  open(isWide() && localStorage.getItem('side') === 'true', { keep: false });
}

/** What of the results is shown. */
function options(app) {
  const min = h('input', { type: 'number', min: -1, max: 1, step: 0.01, placeholder: 'any',
    onchange: () => app.update({ min: min.value === '' ? null : Math.min(1, Math.max(-1, +min.value)) }) });
  const dup = h('input', { type: 'checkbox', onchange: () => app.update({ dup: dup.checked ? 0.95 : null }) });
  const per = h('input', { type: 'checkbox', onchange: () => app.update({ per: per.checked ? 1 : null }) });
  const find = h('select', { onchange: () => app.update({ find: find.value || null }) },
    ...[['', 'what fits'], ['images', 'images'], ['texts', 'texts']].map(([value, text]) => h('option', { value }, text)));
  const show = () => {
    min.value = app.state.min ?? '';
    dup.checked = app.state.dup !== null;
    per.checked = app.state.per !== null;
    find.value = app.state.find ?? '';
  };
  app.addEventListener('state', show);
  show();
  return h('div', { className: 'options' }, ...(app.index.holds.length > 1 ? [h('label', {}, 'Find ', find)] : []),
    h('label', {}, 'Least score ', min), h('label', {}, dup, ' Group near-duplicates'), h('label', {}, per, ' One result a file'));
}

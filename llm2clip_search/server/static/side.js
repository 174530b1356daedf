/** Filters, counts, saved searches and exports beside the results. */
import { h } from './element.js';
import { isWide, sheet } from './sheet.js';

/** `event` is what the column is first opened for: `side`, `trouble`, or nothing. */
export function mount(element, app, event) {
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
    app.addEventListener('answer', again);
    again();
  };

  const { open: show, close } = sheet(element, () => open(false));

  async function open(value, { keep = true } = {}) {
    const had = element.contains(document.activeElement);
    if (value) show();
    else close();
    toggle.setAttribute('aria-expanded', value);
    if (keep) localStorage.setItem('side', value);
    if (value) await (ready ??= make());
    else if (had) toggle.focus();
  }
  async function turn() {
    await open(!element.open);
    if (element.open && !isWide()) element.querySelector('button')?.focus();
  }
  app.addEventListener('side', turn);
  element.addEventListener('keydown', (pressed) => {
    if (pressed.key !== 'Escape') return;
    pressed.preventDefault();
    open(false);
  });

  /** A wrong condition is shown at its field. */
  async function point({ detail }) {
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
  }
  app.addEventListener('trouble', point);
  app.addEventListener('answer', () => {
    filters.querySelectorAll('[aria-invalid]').forEach((each) => each.removeAttribute('aria-invalid'));
    const trouble = filters.querySelector('[role="alert"]');
    if (trouble) trouble.textContent = '';
  });
  if (event?.type === 'side') turn();
  else if (event) point(event);
  else open(true, { keep: false });
}

/** What of the results is shown. */
function options(app) {
  const min = h('input', { type: 'number', min: -1, max: 1, step: 0.01, placeholder: 'any',
    onchange: () => app.update({ min: min.value === '' ? null : Math.min(1, Math.max(-1, +min.value)) }) });
  const dup = h('input', { type: 'checkbox', onchange: () => app.update({ dup: dup.checked ? 0.95 : null }) });
  const per = h('input', { type: 'checkbox', onchange: () => app.update({ per: per.checked ? 1 : null }) });
  const show = () => {
    min.value = app.state.min ?? '';
    dup.checked = app.state.dup !== null;
    per.checked = app.state.per !== null;
  };
  app.addEventListener('state', show);
  show();
  return h('div', { className: 'options' }, h('label', {}, 'Minimum score ', min), h('label', {}, dup, ' Group near-duplicates'),
    h('label', {}, per, ' One result per file'));
}

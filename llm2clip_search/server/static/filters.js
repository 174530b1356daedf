/**
 * Filters as a form and as SQL, each from the other.
 * Uses of `app`: post, columns (of /index), state.conditions, state.where, update, event `state`.
 */
import { h, visible } from './element.js';

const COMMON = ['taken', 'size', 'width', 'camera', 'path', 'place', 'rating'];
const LABELS = { '=': 'is', '!=': 'is not', '<': 'below', '<=': 'at most', '>': 'above', '>=': 'at least',
  in: 'one of', not_in: 'none of', between: 'between', contains: 'contains', not_contains: 'does not contain',
  starts_with: 'starts with', ends_with: 'ends with', has: 'has', under: 'is in folder', near: 'near',
  within: 'within', is_null: 'is missing', is_not_null: 'is present' };
const ORDERED = ['=', 'between', '>=', '<=', '>', '<', '!='];
const OPS = { number: ORDERED, time: ORDERED, flag: ['='], list: ['has'], place: ['near', 'within'],
  text: ['contains', '=', 'starts_with', 'ends_with', 'not_contains', '!=', 'in', 'not_in'], other: [] };
const PARTS = { near: ['latitude', 'longitude', 'km'], within: ['south', 'west', 'north', 'east'] };

/** A condition in words. */
export function words({ column, op, value }) {
  const shown = value === undefined || value === null ? ''
    : Array.isArray(value) ? value.join(op === 'between' ? ' and ' : ', ')
      : typeof value === 'object' ? Object.entries(value).map(([name, part]) => `${name} ${part}`).join(', ') : value;
  return visible(`${column} ${LABELS[op]} ${shown}`.trim());
}

export function mount(element, app) {
  const chips = h('ul', { className: 'conditions', 'aria-label': 'Active conditions' });
  const trouble = h('p', { role: 'alert', id: 'filter-trouble' });
  const names = app.columns.map((column) => column.name);
  const hasPlace = names.includes('latitude');
  const kinds = Object.fromEntries(app.columns.map((column) => [column.name, column.kind]));
  if (hasPlace) kinds.place = 'place';
  const first = COMMON.filter((name) => kinds[name]);
  const rest = names.filter((name) => !first.includes(name)).sort();
  const option = (value, text = value) => h('option', { value }, visible(text));
  const column = h('select', { 'aria-label': 'Column', onchange: () => showOps() }, ...first.map((name) => option(name)),
    h('optgroup', { label: 'All columns' }, ...rest.map((name) => option(name))));
  const op = h('select', { 'aria-label': 'Comparison', onchange: () => showFields() });
  const fields = h('span', { className: 'values' });
  const sql = h('textarea', { rows: 2, 'aria-label': 'Condition in SQL', spellcheck: false });
  let said = []; // conditions that the SQL in the box says, which other SQL replaces
  const add = (event) => {
    event.preventDefault();
    const condition = { column: column.value, op: op.value, ...value() };
    const all = [...(app.state.conditions ?? []), condition];
    take({ conditions: all }, fields.querySelector('input'), ({ conditions }) => ({ conditions }));
  };
  const apply = (event) => {
    event.preventDefault();
    const text = sql.value.trim();
    take(text ? { where: text } : { conditions: [] }, sql, ({ where, conditions }) => {
      const others = (app.state.conditions ?? []).filter((each) => !said.includes(each));
      said = conditions ?? [];
      return { conditions: [...others, ...said], where: conditions ? '' : where };
    });
  };
  element.replaceChildren(chips, h('form', { className: 'condition', onsubmit: add }, column, op, fields,
    h('button', {}, 'Add')), h('details', {}, h('summary', {}, 'As SQL'), h('form', { onsubmit: apply }, sql,
    h('button', {}, 'Apply'))), trouble);

  /** Check a filter with the server, which says it in both ways; `changes` are what follows for the page. */
  async function take(filter, field, changes) {
    trouble.textContent = '';
    element.querySelectorAll('[aria-invalid]').forEach((each) => each.removeAttribute('aria-invalid'));
    try {
      app.update(changes(await app.post('/conditions', filter)));
    } catch (error) {
      trouble.textContent = [error.detail ?? 'The server cannot be reached.', error.hint].filter(Boolean).join(' ');
      field?.setAttribute('aria-invalid', 'true');
      field?.setAttribute('aria-describedby', trouble.id);
      field?.focus();
    }
  }

  function showOps() {
    const kind = kinds[column.value];
    const ops = [...(column.value === 'path' ? ['under'] : []), ...(OPS[kind] ?? []), ...(kind === 'place' ? [] : ['is_not_null', 'is_null'])];
    op.replaceChildren(...ops.map((each) => option(each, LABELS[each])));
    showFields();
  }

  function showFields() {
    const kind = kinds[column.value];
    const field = (label) => h('input', { required: true, 'aria-label': label, placeholder: label,
      inputMode: kind === 'number' || kind === 'place' ? 'decimal' : 'text' });
    if (op.value.endsWith('null')) return fields.replaceChildren();
    if (kind === 'flag') return fields.replaceChildren(h('select', { 'aria-label': 'Value' }, option('true', 'yes'), option('false', 'no')));
    const labels = PARTS[op.value] ?? (op.value === 'between' ? ['from', 'to']
      : [{ time: 'date, such as 2026-11', list: 'item', text: /in$/.test(op.value) ? 'values, with commas' : 'text' }[kind] ?? 'value']);
    return fields.replaceChildren(...labels.map(field));
  }

  function value() {
    const given = [...fields.children].map((field) => field.value.trim());
    const kind = kinds[column.value];
    const typed = (text) => (kind === 'number' && text !== '' && Number.isFinite(+text) ? +text : text);
    if (!given.length) return {};
    if (PARTS[op.value]) return { value: Object.fromEntries(PARTS[op.value].map((name, at) => [name, Number(given[at])])) };
    if (kind === 'flag') return { value: given[0] === 'true' };
    if (op.value === 'between') return { value: given.map(typed) };
    if (op.value === 'in' || op.value === 'not_in') return { value: given[0].split(',').map((each) => typed(each.trim())) };
    return { value: typed(given[0]) };
  }

  async function show() {
    const { conditions = [], where = '', area } = app.state;
    const chip = (text, remove) => h('li', {}, text, ' ', h('button', { type: 'button', 'aria-label': `Remove ${text}`, onclick: remove }, '\u00d7'));
    chips.replaceChildren(...conditions.map((each, at) => chip(words(each), () => app.update({ conditions: conditions.toSpliced(at, 1) }))),
      ...(where ? [chip(where, () => app.update({ where: '' }))] : []),
      ...(area ? [chip('area on the map', () => app.update({ area: null }))] : []));
    const known = !where && conditions.length ? (await app.post('/conditions', { conditions })).where : where;
    const isStale = conditions !== (app.state.conditions ?? conditions) || where !== (app.state.where ?? '');
    if (isStale || document.activeElement === sql) return;
    sql.value = known;
    said = where ? [] : conditions;
  }

  const listener = () => show().catch(() => {}); // a search with these conditions says what is wrong with them
  app.addEventListener('state', listener);
  showOps();
  listener();
  return () => app.removeEventListener('state', listener);
}

/** What the page shows, as the query of its URL. */

export const EMPTY = { q: '', terms: [], where: '', conditions: [], area: null, find: null, min: null, dup: null,
  per: null, sort: null, id: null, view: 'grid', top: 1 };

/** Keys that do not change what is found. */
export const SHOWN = ['id', 'view', 'top'];

const VIEWS = ['grid', 'map', 'places'];
const TERM = /^(like|text|upload):([^]*?)(?:\[([\d.,]+)\])?(?:\^(-?[\d.]+))?$/;

/** `like:4711[0.1,0.2,0.5,0.6]^-0.5` as a term of /search; null if it is none. */
export function readTerm(text) {
  const [, kind, value, crop, weight = '1'] = TERM.exec(text) ?? [];
  if (!value || !Number.isFinite(+weight)) return null;
  if (kind === 'text') return { text: crop ? `${value}[${crop}]` : value, weight: +weight };
  return { [kind]: value, ...(crop && { crop: crop.split(',').map(Number) }), weight: +weight };
}

export function writeTerm({ text, like, upload, crop, weight = 1 }) {
  const kind = text !== undefined ? 'text' : like !== undefined ? 'like' : 'upload';
  return `${kind}:${text ?? like ?? upload}${crop ? `[${crop.join(',')}]` : ''}^${weight}`;
}

/** The state that a query string says; what cannot be read is left out. */
export function read(query) {
  const given = new URLSearchParams(query);
  const json = (name) => {
    try {
      const value = JSON.parse(given.get(name));
      return Array.isArray(value) ? value : null;
    } catch {
      return null;
    }
  };
  const number = (name) => (given.get(name) && Number.isFinite(+given.get(name)) ? +given.get(name) : null);
  return {
    q: given.get('q') ?? '', terms: given.getAll('t').map(readTerm).filter(Boolean), where: given.get('w') ?? '',
    conditions: json('c') ?? [], area: json('a'), find: ['images', 'texts'].find((each) => each === given.get('find')) ?? null,
    min: number('min'), dup: number('dup'), per: number('per'), sort: given.get('sort'), id: given.get('id'),
    view: VIEWS.includes(given.get('view')) ? given.get('view') : 'grid', top: Math.max(1, Math.floor(number('top') ?? 1)),
  };
}

export function write(state) {
  const query = new URLSearchParams();
  const put = (name, value) => value && query.append(name, value);
  put('q', state.q);
  state.terms.forEach((term) => put('t', writeTerm(term)));
  put('w', state.where);
  if (state.conditions.length) put('c', JSON.stringify(state.conditions));
  if (state.area) put('a', JSON.stringify(state.area));
  for (const name of ['find', 'dup', 'per', 'sort', 'id']) put(name, state[name]);
  if (state.min !== null) query.append('min', state.min);
  if (state.view !== 'grid') put('view', state.view);
  if (state.top > 1) put('top', state.top);
  return query.toString();
}

/** The filter of a request. */
export function filterOf({ where, conditions, area, find }) {
  return { ...(where && { where }), ...(conditions.length && { conditions }), ...(area && { area }), ...(find && { find }) };
}

/** The body of a search, without its place in the ranking. */
export function searchOf(state) {
  const terms = [...(state.q.trim() ? [{ text: state.q.trim() }] : []), ...state.terms];
  return { terms, ...filterOf(state), ...(state.min !== null && { min_score: state.min }),
    ...(state.dup && { group_duplicates: state.dup }), ...(state.per && { per_file: state.per }),
    ...(state.sort && !terms.length && { sort: state.sort }) };
}

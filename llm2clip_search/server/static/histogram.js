/** A histogram in which a range is chosen with the pointer, or with two fields. */
import { h } from './element.js';

const SVG = 'http://www.w3.org/2000/svg';
const HEIGHT = 60;

/**
 * `bins` are those of /facets: their end is excluded, and times are periods such as 2026-11, which conditions take whole.
 * `choose` is called with conditions.
 */
export function histogram(column, kind, bins, choose) {
  const most = Math.max(...bins.map((bin) => bin.count));
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', `0 0 ${bins.length} ${HEIGHT}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  svg.classList.add('histogram');
  const bars = bins.map(({ count, from }, at) => {
    const bar = document.createElementNS(SVG, 'rect');
    const tall = count ? Math.max(2, (HEIGHT * count) / most) : 0;
    for (const [name, value] of Object.entries({ x: at + 0.05, y: HEIGHT - tall, width: 0.9, height: tall, fill: 'currentColor' })) {
      bar.setAttribute(name, value);
    }
    const title = document.createElementNS(SVG, 'title');
    title.textContent = `${from}: ${count.toLocaleString()}`;
    bar.append(title);
    svg.append(bar);
    return bar;
  });
  const low = h('input', { value: bins[0].from, 'aria-label': `${column} from`, size: 11 });
  const isTime = kind === 'time';
  const high = h('input', { value: isTime ? bins.at(-1).from : bins.at(-1).to, 'aria-label': `${column} to`, size: 11 });
  const limit = (last = '<=') => {
    const [from, to] = [low.value, high.value].map((value) => (isTime ? value.trim() : Number(value)));
    choose({ column, op: '>=', value: from }, { column, op: last, value: to });
  };
  let first = null;

  const at = (event) => {
    const box = svg.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    return Math.min(bins.length - 1, Math.max(0, Math.floor(share * bins.length)));
  };
  const brush = (event) => {
    const [from, to] = [first, at(event)].sort((a, b) => a - b);
    bars.forEach((bar, place) => bar.classList.toggle('chosen', place >= from && place <= to));
    low.value = bins[from].from;
    high.value = isTime ? bins[to].from : bins[to].to;
  };
  svg.addEventListener('pointerdown', (event) => {
    svg.setPointerCapture(event.pointerId);
    first = at(event);
    brush(event);
  });
  svg.addEventListener('pointermove', (event) => first !== null && brush(event));
  svg.addEventListener('pointerup', () => {
    if (first === null) return;
    first = null;
    limit(isTime ? '<=' : '<');
  });
  svg.addEventListener('pointercancel', () => { first = null; });
  const submit = (event) => {
    event.preventDefault();
    limit();
  };
  return h('details', { open: true }, h('summary', {}, column), svg,
    h('form', { onsubmit: submit }, low, ' to ', high, h('button', { 'aria-label': `Limit ${column}` }, 'Limit')));
}

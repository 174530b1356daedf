/** A histogram in which a range is chosen with the pointer, or with two fields. */
import { h } from './element.js';

const SVG = 'http://www.w3.org/2000/svg';
const HEIGHT = 60;

/** `bins` are those of /facets; `choose` is called with the operation and [low, high]. */
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
    for (const [name, value] of Object.entries({ x: at + 0.05, y: HEIGHT - tall, width: 0.9, height: tall })) {
      bar.setAttribute(name, value);
    }
    const title = document.createElementNS(SVG, 'title');
    title.textContent = `${from}: ${count.toLocaleString()}`;
    bar.append(title);
    svg.append(bar);
    return bar;
  });
  const low = h('input', { value: bins[0].from, 'aria-label': `${column} from`, size: 11 });
  const high = h('input', { value: bins.at(-1).to, 'aria-label': `${column} to`, size: 11 });
  const values = () => [low.value, high.value].map((value) => (kind === 'number' ? Number(value) : value.trim()));
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
    high.value = bins[to].to;
  };
  svg.addEventListener('pointerdown', (event) => {
    svg.setPointerCapture(event.pointerId);
    first = at(event);
    brush(event);
  });
  svg.addEventListener('pointermove', (event) => first !== null && brush(event));
  svg.addEventListener('pointerup', () => {
    first = null;
    choose(values());
  });
  svg.addEventListener('pointercancel', () => { first = null; });
  const submit = (event) => {
    event.preventDefault();
    choose(values());
  };
  return h('details', { open: true }, h('summary', {}, column), svg,
    h('form', { onsubmit: submit }, low, ' to ', high, h('button', { 'aria-label': `Limit ${column}` }, 'Limit')));
}

/** The preview of a row, on which a part can be chosen that is then searched for: with the pointer, or in per cent. */
import { picture, shown } from './api.js';
import { h, titleOf } from './element.js';

const LEAST = 0.02; // of a side
const TALL = 56; // most height in per cent of the window's, as in the style sheet
const SIDES = ['Left', 'Top', 'Right', 'Bottom'];

export function framed(row, choose) {
  const image = h('img', { src: picture(row, 'preview'), alt: titleOf(row), draggable: false });
  shown(image, () => image.replaceWith(h('p', { className: 'note' }, 'The picture cannot be shown.')));
  const part = h('div', { className: 'part', hidden: true });
  const element = h('div', { className: 'stage' }, image, part);
  if (row.width) { // its place is known before it is loaded
    image.style.aspectRatio = `${row.width} / ${row.height}`;
    element.style.width = `min(100%, ${row.width}px, ${(TALL * row.width) / row.height}vh)`;
  }
  const toggle = h('button', { type: 'button', 'aria-expanded': 'false', onclick: () => set(!drawing) }, 'Search a part');
  const sides = SIDES.map((side, at) => h('input', { type: 'number', min: 0, max: 100, step: 'any',
    required: true, value: at < 2 ? 25 : 75, 'aria-label': `${side} of the part in per cent`, oninput: () => paint() }));
  const trouble = h('p', { role: 'alert' });
  const form = h('form', { className: 'part-form', hidden: true, onsubmit: (event) => {
    event.preventDefault();
    finish();
  } }, h('p', {}, 'Draw a rectangle on the picture, or give its sides in per cent.'),
  ...sides.map((side, at) => h('label', {}, SIDES[at], side)), h('button', {}, 'Search this part'), trouble);
  let drawing = false;
  let from = null;

  const crop = () => sides.map((side) => +(Math.min(100, Math.max(0, +side.value)) / 100).toFixed(3));

  function set(value) {
    drawing = value;
    element.classList.toggle('drawing', value);
    toggle.setAttribute('aria-expanded', value);
    form.hidden = part.hidden = !value;
    trouble.textContent = '';
    if (value) paint();
  }

  function paint() {
    const [left, top, right, bottom] = crop();
    Object.assign(part.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * Math.max(0, right - left)}%`,
      height: `${100 * Math.max(0, bottom - top)}%` });
  }

  function finish() {
    const [left, top, right, bottom] = crop();
    if (right - left > LEAST && bottom - top > LEAST) choose([left, top, right, bottom]);
    else trouble.textContent = 'Choose a larger part.';
  }

  const at = (event) => {
    const box = image.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((each) => Math.min(1, Math.max(0, each)));
  };
  const draw = (event) => {
    const to = at(event);
    const both = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
    sides.forEach((side, place) => { side.value = (100 * both[place]).toFixed(1); });
    paint();
  };
  element.addEventListener('pointerdown', (event) => {
    if (!drawing) return;
    event.preventDefault();
    element.setPointerCapture(event.pointerId);
    from = at(event);
  });
  element.addEventListener('pointermove', (event) => from && draw(event));
  element.addEventListener('pointerup', () => {
    if (from) finish();
    from = null;
  });
  element.addEventListener('pointercancel', () => { from = null; });
  return { element, toggle, form };
}

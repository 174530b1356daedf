/** A result in the grid. Uses of `app`: state.id, selected, thumbnail. */
import { shown } from './api.js';
import { h, titleOf, visible } from './element.js';

/** The cell of place `at` with what was found there, which is missing until it is loaded; `height` is in CSS pixels. */
export function tile(app, found, at, { height, isFocused }) {
  const cell = h('div', { className: 'tile', role: 'gridcell', tabIndex: isFocused ? 0 : -1 });
  cell.dataset.at = at;
  if (!found) {
    cell.setAttribute('aria-label', `Result ${at + 1} is being loaded`);
    return cell;
  }
  cell.setAttribute('aria-selected', app.selected.has(found.id));
  if (app.state.id === found.id) cell.classList.add('open');
  cell.append(...(found.modality === 'text' ? passage(found) : picture(app, cell, found, height)));
  const likely = found.probability === undefined ? '' : `; right with a probability of ${found.probability.toFixed(2)}`;
  if (found.score !== undefined) {
    cell.append(h('span', { className: 'score', title: `Cosine${likely}` }, found.score.toFixed(3)));
  }
  if (found.duplicates?.length) cell.append(h('span', { className: 'same' }, `+${found.duplicates.length} similar`));
  return cell;
}

const passage = ({ text, name }) => [h('p', {}, visible(text ?? name, true)), h('small', {}, visible(name))];

function picture(app, cell, found, height) {
  const ratio = (found.width || 4) / (found.height || 3);
  cell.style.flexGrow = Math.min(1.9, Math.max(0.6, ratio));
  const wide = Math.ceil((height * Math.max(1, ratio)) * Math.min(2, devicePixelRatio));
  const image = h('img', { src: app.thumbnail(found, [160, 320, 640].find((each) => each >= Math.min(640, wide))),
    alt: titleOf(found), decoding: 'async', draggable: false });
  const name = h('span', { className: 'name' }, titleOf(found));
  shown(image, () => {
    cell.classList.add('broken');
    name.remove();
    image.replaceWith(h('p', {}, `${visible(found.name)} cannot be shown.`));
  });
  return [image, name];
}

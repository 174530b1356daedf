/** A map of places without tiles. Uses of `app`: post, filter(), thumbnail, open, addConditions, event `state`. */
import { rings } from './coast.js';
import { followSize, h } from './element.js';

export function mount(element, app) {
  const status = h('p', { role: 'status' });
  const choosing = h('button', { type: 'button', 'aria-pressed': 'false', onclick: () => choose(!rectangle) }, 'Choose a rectangle');
  const button = (text, label, onclick) => h('button', { type: 'button', 'aria-label': label, onclick }, text);
  const tools = h('div', { role: 'toolbar', 'aria-label': 'Places' }, button('+', 'Zoom in', () => zoom(2)),
    button('\u2212', 'Zoom out', () => zoom(0.5)), button('World', 'Whole world', () => whole()), choosing);
  const canvas = h('canvas', { className: 'places-map', tabIndex: 0, role: 'img', 'aria-label': 'Map of places; listed below it' });
  const fields = ['south', 'west', 'north', 'east'].map((side) => h('input', { type: 'number', step: 'any', required: true,
    min: /h$/.test(side) ? -90 : -180, max: /h$/.test(side) ? 90 : 180, 'aria-label': side, placeholder: side }));
  const within = (south, west, north, east) => app.addConditions({ column: 'place', op: 'within', value: { south, west, north, east } });
  const submit = (event) => {
    event.preventDefault();
    within(...fields.map((field) => Number(field.value)));
  };
  const list = h('ul', { className: 'places-list' });
  element.replaceChildren(status, tools, canvas, h('form', { onsubmit: submit }, ...fields, h('button', {}, 'Within')),
    h('details', {}, h('summary', {}, 'Places as a list'), list));

  const land = rings();
  let view = { x: 0, y: 10, scale: 2 }; // centre in degrees, pixels a degree
  let cells = [];
  let most = 10; // count of a cell
  let rectangle = false;
  let drag = null;
  let turn = 0;
  let timer = 0;
  const pixel = (x, y) => [(x - view.x) * view.scale + canvas.clientWidth / 2, canvas.clientHeight / 2 - (y - view.y) * view.scale];
  const place = (px, py) => [view.x + (px - canvas.clientWidth / 2) / view.scale, view.y - (py - canvas.clientHeight / 2) / view.scale];
  const clamp = (value, most) => Math.min(most, Math.max(-most, value));

  async function load() {
    const mine = ++turn;
    const [west, north] = place(0, 0);
    const [east, south] = place(canvas.clientWidth, canvas.clientHeight);
    const bounds = [clamp(south, 90), clamp(west, 180), clamp(north, 90), clamp(east, 180)];
    try {
      const found = await app.post('/places', { ...app.filter(), bounds, cells: Math.min(256, Math.ceil(canvas.clientWidth / 24)) });
      if (mine !== turn) return;
      cells = found.cells;
      most = cells.reduce((so, each) => Math.max(so, each.count), 10);
      status.textContent = found.matches ? `${found.matches.toLocaleString()} with a place here.` : 'None has a place here.';
      list.replaceChildren(...[...cells].sort((a, b) => b.count - a.count).slice(0, 50).map((each) => h('li', {},
        button(`${each.latitude.toFixed(2)}, ${each.longitude.toFixed(2)}: ${each.count.toLocaleString()}`,
          `Show ${each.count} around ${each.latitude.toFixed(2)}, ${each.longitude.toFixed(2)}`, () => enter(each)))));
      draw();
    } catch (error) {
      if (mine === turn) status.textContent = error.detail ?? 'The server cannot be reached.';
    }
  }

  const reload = () => {
    draw();
    clearTimeout(timer);
    timer = setTimeout(load, 150);
  };
  const enter = ({ latitude, longitude, count, id }) => {
    if (count === 1) return app.open(id);
    view = { x: longitude, y: latitude, scale: Math.min(20_000, view.scale * 4) };
    return reload();
  };
  const zoom = (factor, px = canvas.clientWidth / 2, py = canvas.clientHeight / 2) => {
    const [x, y] = place(px, py);
    const scale = Math.min(20_000, Math.max(canvas.clientWidth / 400, view.scale * factor));
    view = { x: x - (x - view.x) * (view.scale / scale), y: y - (y - view.y) * (view.scale / scale), scale };
    reload();
  };
  const whole = () => {
    view = { x: 0, y: 10, scale: canvas.clientWidth / 360 };
    reload();
  };
  const choose = (value) => {
    rectangle = value;
    choosing.setAttribute('aria-pressed', value);
  };
  const radius = (count) => 4 + (8 * Math.log(count)) / Math.log(most);

  function draw() {
    const pen = canvas.getContext('2d');
    const style = getComputedStyle(element);
    const colour = (name, other) => style.getPropertyValue(name).trim() || other;
    pen.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    pen.fillStyle = colour('--land', '#8884');
    for (const shift of [-360, 0, 360]) {
      for (const ring of land) {
        pen.beginPath();
        for (const [x, y] of ring) pen.lineTo(...pixel(x + shift, y));
        pen.fill();
      }
    }
    const step = [90, 30, 10, 5, 1, 0.5, 0.1, 0.01].find((each) => each * view.scale < 160) ?? 0.01;
    const [[west, north], [east, south]] = [place(0, 0), place(canvas.clientWidth, canvas.clientHeight)];
    pen.strokeStyle = colour('--line', '#8886');
    pen.fillStyle = style.color;
    pen.font = '11px sans-serif';
    pen.beginPath();
    for (let x = Math.ceil(west / step) * step; x < east; x += step) {
      pen.moveTo(...pixel(x, north));
      pen.lineTo(...pixel(x, south));
      pen.fillText(`${+x.toFixed(2)}°`, pixel(x, 0)[0] + 3, 11);
    }
    for (let y = Math.ceil(Math.max(south, -90) / step) * step; y <= Math.min(north, 90); y += step) {
      pen.moveTo(...pixel(west, y));
      pen.lineTo(...pixel(east, y));
      pen.fillText(`${+y.toFixed(2)}°`, 3, pixel(0, y)[1] - 3);
    }
    pen.stroke();
    pen.globalAlpha = 0.8;
    for (const { latitude, longitude, count } of cells) {
      pen.beginPath();
      pen.arc(...pixel(longitude, latitude), radius(count), 0, 7);
      pen.fillStyle = colour('--accent', '#0b6fb8');
      pen.fill();
    }
    pen.globalAlpha = 1;
    if (rectangle && drag) {
      pen.strokeStyle = style.color;
      pen.strokeRect(...drag.from, drag.to[0] - drag.from[0], drag.to[1] - drag.from[1]);
    }
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener('pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    drag = { from: at(event), to: at(event), view };
  });
  canvas.addEventListener('pointermove', (event) => {
    if (!drag) return;
    drag.to = at(event);
    const [dx, dy] = [drag.to[0] - drag.from[0], drag.to[1] - drag.from[1]];
    if (!rectangle) view = { ...view, x: drag.view.x - dx / view.scale, y: drag.view.y + dy / view.scale };
    draw();
  });
  canvas.addEventListener('pointerup', () => {
    if (!drag) return;
    const { from, to } = drag;
    drag = null;
    const isClick = Math.hypot(to[0] - from[0], to[1] - from[1]) < 4;
    if (rectangle && !isClick) {
      const [[x0, y0], [x1, y1]] = [place(...from), place(...to)];
      choose(false);
      const round = (value, most) => +clamp(value, most).toFixed(4);
      within(round(Math.min(y0, y1), 90), round(Math.min(x0, x1), 180), round(Math.max(y0, y1), 90), round(Math.max(x0, x1), 180));
    } else if (isClick) {
      const near = cells.find(({ latitude, longitude, count }) => {
        const [x, y] = pixel(longitude, latitude);
        return Math.hypot(x - to[0], y - to[1]) < radius(count) + 3;
      });
      if (near) enter(near);
    } else reload();
  });
  canvas.addEventListener('pointercancel', () => { drag = null; });
  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...at(event));
  });
  canvas.addEventListener('keydown', (event) => {
    const far = 60 / view.scale;
    const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, far], ArrowDown: [0, -far] };
    if (event.key in moves) {
      view = { ...view, x: view.x + moves[event.key][0], y: view.y + moves[event.key][1] };
      reload();
    } else if (event.key === '+' || event.key === '=') zoom(2);
    else if (event.key === '-') zoom(0.5);
    else return;
    event.preventDefault();
  });
  app.addEventListener('state', load);
  const end = followSize(canvas, draw);
  requestAnimationFrame(whole);
  return () => {
    end();
    clearTimeout(timer);
    app.removeEventListener('state', load);
  };
}

/**
 * The map of the corpus: a point for each image, alike images close together; or for each text, of an index of texts only.
 * Uses of `app`: get, post, url, thumbnail, index, state.area, update, open, hits, and the events `state` and `hits`.
 */
import { pause } from './api.js';
import { followSize, h, visible } from './element.js';
import * as kept from './points.js';

const COLOURS = ['4e79a7', 'f28e2b', '59a14f', 'b07aa1', 'e15759', '76b7b2', '9c755f', 'edc948', 'ff9da7', 'bab0ac'];
const VERTEX = `attribute float x, y, group, found; uniform vec3 view; uniform vec2 size; uniform float dot, dim;
uniform vec3 colours[10]; varying vec4 colour;
void main() {
  gl_Position = vec4((vec2(x, y) - view.xy) * view.z * 2. / size * vec2(1, -1), 0, 1);
  gl_PointSize = dot * (found > .5 ? 2.2 : 1.);
  vec3 c = colours[int(mod(group, 10.))];
  colour = vec4(c, dim > .5 && found < .5 ? .18 : .85);
}`;
const FRAGMENT = `precision mediump float; varying vec4 colour;
void main() { if (length(gl_PointCoord - .5) > .5) discard; gl_FragColor = vec4(colour.rgb * colour.a, colour.a); }`;

export function mount(element, app) {
  const ends = [];
  const on = (target, name, listener) => {
    target.addEventListener(name, listener);
    ends.push(() => target.removeEventListener(name, listener));
  };
  const status = h('p', { role: 'status', className: 'map-status' });
  const bar = h('progress', { max: 1, hidden: true, 'aria-label': 'Progress of the map' });
  const again = h('button', { type: 'button', hidden: true, onclick: () => begin() }, 'Try again');
  const lasso = h('button', { type: 'button', 'aria-pressed': 'false', onclick: () => setLasso(!drawing) }, 'Draw an area');
  const clear = h('button', { type: 'button', onclick: () => app.update({ area: null }) }, 'Clear the area');
  const zoom = (label, factor) => h('button', { type: 'button', 'aria-label': label, onclick: () => zoomBy(factor) },
    factor > 1 ? '+' : '\u2212');
  const whole = h('button', { type: 'button', onclick: () => showAll() }, 'Whole map');
  const tools = h('div', { className: 'map-tools', role: 'toolbar', 'aria-label': 'Map' },
    zoom('Zoom in', 1.5), zoom('Zoom out', 1 / 1.5), whole, lasso, clear);
  const canvas = h('canvas', { className: 'map-points', tabIndex: 0, role: 'img',
    'aria-label': 'Map of the corpus; the groups are listed below it' });
  const over = h('canvas', { className: 'map-over', 'aria-hidden': 'true' });
  const hint = h('div', { className: 'map-hint', hidden: true });
  const list = h('ul', { className: 'map-groups' });
  const box = h('div', { className: 'map-box', hidden: true }, canvas, over, hint);
  const groups = h('details', { ontoggle: () => listGroups() }, h('summary', {}, 'Groups on the map'), list);
  element.replaceChildren(status, bar, again, tools, box, groups);
  const kind = app.index.holds.includes('images') ? 'image' : 'text';

  let points = null;
  let cells = null;
  let view = { x: 0.5, y: 0.5, scale: 1 }; // centre, and the pixels that the square's side takes
  let drawing = false;
  let line = [];
  let timer = 0;
  let isOver = false;
  const paint = painter(canvas);

  async function begin() {
    again.hidden = true;
    await follow(await app.post('/map', {}));
  }

  async function follow(answer) {
    if (isOver) return;
    const { state, progress, detail } = answer;
    bar.hidden = state !== 'computing';
    bar.value = progress;
    again.hidden = state !== 'failed';
    status.textContent = { computing: `The map is being computed: ${Math.round(100 * progress)} %.`, ready: detail,
      failed: detail, none: '' }[state];
    if (state === 'none') return begin();
    if (state === 'computing') timer = setTimeout(() => check().catch(fail), 1000);
    if (answer.points && (state === 'ready' || !points)) await load();
  }

  const check = async () => follow(await app.get('/map'));

  function fail(error) {
    status.textContent = error.detail ?? 'The server cannot be reached.';
    again.hidden = false;
  }

  async function load() {
    const response = await fetch(app.url('/map/points'), { credentials: 'same-origin' });
    if (!response.ok || isOver) return;
    points = kept.read(await response.arrayBuffer());
    box.hidden = false;
    await pause();
    await paint.load(points);
    mark();
    showAll();
    list.replaceChildren();
    listGroups();
    const mine = points;
    const sorted = await kept.grid(mine);
    if (mine === points) cells = sorted;
  }

  function mark() {
    if (!points) return;
    const found = new Uint8Array(points.n);
    let some = false;
    for (const hit of app.hits()) {
      const at = kept.find(points, hit.id);
      if (at >= 0) some = !!(found[at] = 1);
    }
    paint.mark(found, some);
    draw();
  }

  /** What a point stands for. */
  function face(at, size) {
    if (kind === 'image') return h('img', { src: app.thumbnail({ id: name(at) }, 160), alt: '', ...size });
    const text = h('small', {}, '…');
    app.get(`/images/${name(at)}`).then((row) => { text.textContent = visible(row.text ?? row.name, true).slice(0, 100); }, () => {});
    return text;
  }

  /** When they are first looked at. */
  async function listGroups() {
    if (!points || !groups.open || list.firstChild) return;
    const items = [];
    for (const { number, count, examples, outline } of kept.groups(points)) {
      await pause();
      const faces = examples.map((at) => h('button', { type: 'button', 'aria-label': `Open ${kind} ${name(at)}`,
        onclick: () => app.open(name(at)) }, face(at, { width: 80, height: 80 })));
      items.push(h('li', {}, h('span', {}, `Group ${number + 1}: about ${count.toLocaleString()} ${kind}s `), ...faces,
        h('button', { type: 'button', onclick: () => app.update({ area: outline }) }, 'Search in this region')));
    }
    list.replaceChildren(...items);
  }

  const name = (at) => (app.indices > 1 ? `${points.id[at]}@${points.index[at] + 1}` : `${points.id[at]}`);

  function showAll() {
    view = { x: 0.5, y: 0.5, scale: Math.min(canvas.clientWidth, canvas.clientHeight) };
    draw();
  }

  function zoomBy(factor, px = canvas.clientWidth / 2, py = canvas.clientHeight / 2) {
    const [x, y] = place(px, py);
    const scale = Math.min(1e6, Math.max(100, view.scale * factor));
    view = { x: x - (x - view.x) * (view.scale / scale), y: y - (y - view.y) * (view.scale / scale), scale };
    draw();
  }

  const place = (px, py) => [view.x + (px - canvas.clientWidth / 2) / view.scale,
    view.y + (py - canvas.clientHeight / 2) / view.scale];
  const pixel = ([x, y]) => [(x - view.x) * view.scale + canvas.clientWidth / 2,
    (y - view.y) * view.scale + canvas.clientHeight / 2];
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  let waiting = 0;
  function draw() {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      paint.draw(view);
      over.width = canvas.width;
      over.height = canvas.height;
      const area = drawing ? line : app.state.area ?? [];
      clear.hidden = !app.state.area;
      if (area.length < 2) return;
      const pen = over.getContext('2d');
      pen.scale(devicePixelRatio, devicePixelRatio);
      pen.beginPath();
      for (const corner of area) pen.lineTo(...pixel(corner));
      pen.closePath();
      pen.strokeStyle = getComputedStyle(element).color;
      pen.lineWidth = 2;
      pen.stroke();
      pen.globalAlpha = 0.12;
      pen.fillStyle = pen.strokeStyle;
      pen.fill('evenodd');
    });
  }

  function setLasso(value) {
    drawing = value;
    line = [];
    lasso.setAttribute('aria-pressed', value);
    draw();
  }

  let down = null;
  on(canvas, 'pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    down = { from: at(event), moved: false, view };
    line = drawing ? [place(...down.from)] : [];
  });
  on(canvas, 'pointermove', (event) => {
    const [px, py] = at(event);
    if (!down) return hover(px, py);
    down.moved ||= Math.hypot(px - down.from[0], py - down.from[1]) > 4;
    if (drawing) line.push(place(px, py));
    else if (down.moved) {
      view = { ...view, x: down.view.x - (px - down.from[0]) / view.scale, y: down.view.y - (py - down.from[1]) / view.scale };
    }
    draw();
  });
  on(canvas, 'pointerup', (event) => {
    const was = down;
    down = null;
    if (drawing) {
      const area = kept.simplified(line);
      setLasso(false);
      if (area.length > 2) app.update({ area });
    } else if (was && !was.moved) {
      const point = under(...at(event));
      if (point >= 0) app.open(name(point));
    }
  });
  on(canvas, 'pointercancel', () => { down = null; });
  on(canvas, 'pointerleave', () => { hint.hidden = true; });
  on(canvas, 'wheel', (event) => {
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 400), ...at(event));
  });
  on(canvas, 'keydown', (event) => {
    const step = 60 / view.scale;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key in moves) {
      view = { ...view, x: view.x + moves[event.key][0], y: view.y + moves[event.key][1] };
      draw();
    } else if (event.key === '+' || event.key === '=') zoomBy(1.5);
    else if (event.key === '-') zoomBy(1 / 1.5);
    else if (event.key === '0') showAll();
    else if (event.key === 'Escape' && drawing) setLasso(false);
    else return;
    event.preventDefault();
  });

  const under = (px, py) => (cells ? kept.nearest(points, cells, ...place(px, py), 8 / view.scale) : -1);

  let shown = -1;
  function hover(px, py) {
    const point = under(px, py);
    hint.hidden = point < 0;
    if (point < 0) return;
    if (point !== shown) hint.replaceChildren(face(point, { width: 160 }));
    shown = point;
    hint.style.left = `${Math.min(px + 12, canvas.clientWidth - 170)}px`;
    hint.style.top = `${Math.max(0, Math.min(py + 12, canvas.clientHeight - 170))}px`;
  }

  on(app, 'state', draw);
  on(app, 'hits', mark);
  ends.push(followSize(canvas, draw), () => clearTimeout(timer));
  check().catch(fail);
  return () => {
    isOver = true;
    ends.forEach((end) => end());
  };
}

/** Draws points by WebGL. */
function painter(canvas) {
  const gl = canvas.getContext('webgl', { premultipliedAlpha: true, antialias: false });
  if (!gl) return { load() {}, mark() {}, draw() {} };
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const uniform = (name) => gl.getUniformLocation(program, name);
  const rgb = COLOURS.flatMap((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255));
  gl.uniform3fv(uniform('colours'), rgb);
  let count = 0;
  const buffers = {};
  const attribute = (name, data, kind) => {
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name] ??= gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    const place = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 1, kind, false, 0, 0);
  };
  return {
    async load({ n, x, y, group }) {
      for (const [name, data, kind] of [['x', x, gl.FLOAT], ['y', y, gl.FLOAT], ['group', group, gl.UNSIGNED_BYTE]]) {
        attribute(name, data, kind);
        await pause();
      }
      count = n;
    },
    mark(found, some) {
      attribute('found', found, gl.UNSIGNED_BYTE);
      gl.uniform1f(uniform('dim'), some ? 1 : 0);
    },
    draw({ x, y, scale }) {
      if (!count) return;
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform3f(uniform('view'), x, y, scale);
      gl.uniform2f(uniform('size'), canvas.clientWidth, canvas.clientHeight);
      const close = Math.min(8, Math.max(1, Math.sqrt((scale * scale) / count) / 4));
      gl.uniform1f(uniform('dot'), (1 + close) * devicePixelRatio);
      gl.drawArrays(gl.POINTS, 0, count);
    },
  };
}

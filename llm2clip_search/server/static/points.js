/** Points of the map of the corpus, as /map/points sends them, and what is asked of them. */
import { pause } from './api.js';

const CELLS = 256;
const SAMPLE = 20_000; // points that the groups are outlined by
const TURN = 100_000; // points between two pauses, so that no task takes 50 ms

/** Typed arrays of an answer: views of it, or copies where they do not begin at a multiple of their size. */
export function read(buffer) {
  const n = new DataView(buffer).getUint32(0, true);
  let at = 4;
  const take = (Kind) => {
    const from = at;
    at += n * Kind.BYTES_PER_ELEMENT;
    return from % Kind.BYTES_PER_ELEMENT ? new Kind(buffer.slice(from, at)) : new Kind(buffer, from, n);
  };
  return { n, x: take(Float32Array), y: take(Float32Array), group: take(Uint8Array), id: take(Float64Array),
    index: take(Uint8Array) };
}

/** Sort points into the cells of a grid, with pauses: `start[c]` to `start[c + 1]` of `order` lie in cell c. */
export async function grid(points) {
  const { n, x, y } = points;
  const start = new Uint32Array(CELLS * CELLS + 1);
  const order = new Uint32Array(n);
  const cellOf = (at) => cell(y[at]) * CELLS + cell(x[at]);
  for (let at = 0; at < n; at++) {
    start[cellOf(at) + 1]++;
    if (at % TURN === TURN - 1) await pause();
  }
  for (let at = 0; at < CELLS * CELLS; at++) start[at + 1] += start[at];
  const next = start.slice();
  for (let at = 0; at < n; at++) {
    order[next[cellOf(at)]++] = at;
    if (at % TURN === TURN - 1) await pause();
  }
  return { start, order };
}

const cell = (value) => Math.min(CELLS - 1, Math.max(0, Math.floor(value * CELLS)));

/** The nearest point within a radius, or -1. */
export function nearest(points, { start, order }, px, py, radius) {
  let best = -1;
  let least = radius * radius;
  for (let row = cell(py - radius); row <= cell(py + radius); row++) {
    for (let column = cell(px - radius); column <= cell(px + radius); column++) {
      const at = row * CELLS + column;
      const end = Math.min(start[at + 1], start[at] + 5000); // a cell with very many is full: any will do
      for (let place = start[at]; place < end; place++) {
        const point = order[place];
        const square = (points.x[point] - px) ** 2 + (points.y[point] - py) ** 2;
        if (square < least) [best, least] = [point, square];
      }
    }
  }
  return best;
}

/** The place of a row's point, by its id as the API writes it, or -1; points ascend by index, then id. */
export function find(points, name) {
  const [id, index] = name.split('@').map(Number);
  const part = (index || 1) - 1;
  let [low, high] = [0, points.n];
  while (low < high) {
    const middle = (low + high) >> 1;
    const before = points.index[middle] - part || points.id[middle] - id;
    if (before < 0) low = middle + 1;
    else high = middle;
  }
  return low < points.n && points.id[low] === id && points.index[low] === part ? low : -1;
}

/** The groups one by one, each with its count, four central examples, and an outline of its inner four fifths. */
export function* groups(points) {
  const members = [];
  const step = Math.ceil(points.n / SAMPLE) || 1;
  for (let at = 0; at < points.n; at += step) (members[points.group[at]] ??= []).push(at);
  const middle = (axis, all) => Float32Array.from(all, (at) => axis[at]).sort()[all.length >> 1];
  for (const [number, all] of members.entries()) {
    if (!all) continue; // no point of the sample is in it
    const [mx, my] = [middle(points.x, all), middle(points.y, all)];
    const apart = (at) => (points.x[at] - mx) ** 2 + (points.y[at] - my) ** 2;
    const inner = [...all].sort((a, b) => apart(a) - apart(b)).slice(0, Math.max(3, Math.ceil(0.8 * all.length)));
    yield { number, count: all.length * step, examples: inner.slice(0, 4),
      outline: hull(inner.map((at) => [points.x[at], points.y[at]])) };
  }
}

/** The convex hull of some places, a little larger than they need. */
function hull(places) {
  const sorted = places.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const turn = (o, a, b) => (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
  const half = (corners) => {
    const kept = [];
    for (const each of corners) {
      while (kept.length > 1 && turn(kept.at(-2), kept.at(-1), each) <= 0) kept.pop();
      kept.push(each);
    }
    return kept.slice(0, -1);
  };
  const around = [...half(sorted), ...half(sorted.reverse())];
  const centre = [0, 1].map((axis) => around.reduce((sum, each) => sum + each[axis], 0) / around.length);
  const away = (value, axis) => +(value + Math.sign(value - centre[axis]) * 0.002).toFixed(4);
  return around.map((each) => each.map(away));
}

/** A drawn line with at most `most` corners. */
export function simplified(line, most = 200) {
  const step = Math.max(1, Math.ceil(line.length / most));
  return line.filter((_, at) => at % step === 0).map((each) => each.map((value) => +value.toFixed(4)));
}

/**
 * Hints above the results for whoever is new here, and a doubt that floats over them: that matches are weak.
 * Uses of `app`: post, search, update, total, generation.
 */
import { h } from './element.js';

/** Captions that describe nothing visible. */
const UNRELATED = ['the second amendment to the tax regulation', 'why the proof by induction fails', 'a subscription that renews every quarter'];
const REST = 500; // the place that stands for the rest, or the middle of fewer results
const LEAST = 100; // results that can be judged

let known = {}; // lead of unrelated captions, and the generation that it was taken in

/** Say what there is to say of an answer, and nothing else. */
export function advise({ hints, doubt }, app, answer) {
  const { terms, ...rest } = app.search();
  const isPlain = terms.length === 1 && terms[0].text && !Object.keys(rest).length;
  say(hints);
  say(doubt);
  if (!terms.length && answer.hits.length && !Object.keys(rest).length) welcome(hints, app, answer);
  else if (isPlain && answer.find === 'images' && app.total >= LEAST) judge(doubt, app, answer, terms[0].text);
}

function say(element, ...nodes) {
  element.hidden = !nodes.length;
  element.replaceChildren(...nodes);
}

function welcome(element, app, { hits, find }) {
  const captions = [...new Set(hits.map(({ caption }) => caption).filter((text) => text?.length > 20))].slice(0, 2);
  const examples = captions.length || find === 'texts' ? captions : ['two people laughing at a table outdoors', 'a red car in front of an old house'];
  say(element, h('p', {}, 'Describe what you are looking for in a sentence or a paragraph, in your own language. Or paste, drop or choose pictures.'),
    ...examples.map((text) => h('button', { type: 'button', onclick: () => app.update({ q: text }) }, text)));
}

/** Scores themselves say little: captions that describe nothing visible can have high ones throughout. */
async function judge(element, app, answer, text) {
  if (known.generation !== app.generation) {
    const leads = UNRELATED.map((each) => lead(app, each));
    known = { generation: app.generation, lead: Promise.all(leads).then((all) => Math.max(...all)) };
  }
  try {
    const isWeak = await lead(app, text, answer.hits[0].score) <= await known.lead;
    const { terms, ...rest } = app.search();
    if (!isWeak || terms.length !== 1 || terms[0].text !== text || Object.keys(rest).length) return;
    say(element, h('p', {}, 'These matches are weak: the best one stands out no more than for a caption that describes nothing'
      + ' visible. What you are looking for may not be here.'),
    h('button', { type: 'button', 'aria-label': 'Close the note', onclick: () => say(element) }, '×'));
  } catch {
    known = {}; // the next search tries again
  }
}

/** How far the best match of a caption stands out from the rest. */
async function lead(app, text, best) {
  const score = async (offset) => (await app.post('/search', { terms: [{ text }], k: 1, offset })).hits[0].score;
  const rest = await score(Math.min(REST, Math.floor(app.total / 2)));
  return (best ?? await score(0)) - rest;
}

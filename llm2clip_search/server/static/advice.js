/**
 * What stands above results: hints for whoever is new here, and whether matches are weak.
 * Uses of `app`: post, state, search, update, total, generation, event `answer`.
 */
import { h } from './element.js';

/** Captions that describe nothing visible. */
const UNRELATED = ['the second amendment to the tax regulation', 'why the proof by induction fails', 'a subscription that renews every quarter'];
const REST = 500; // the place that stands for the rest, or the middle of fewer results
const LEAST = 100; // results that can be judged

export function mount(element, app) {
  let known = {}; // lead of unrelated captions, and the generation that it was taken in

  /** How far the best match of a caption stands out from the rest. */
  async function lead(text, best) {
    const score = async (offset) => (await app.post('/search', { terms: [{ text }], k: 1, offset })).hits[0].score;
    const rest = await score(Math.min(REST, Math.floor(app.total / 2)));
    return (best ?? await score(0)) - rest;
  }

  /** Scores themselves say little: captions that describe nothing visible can have high ones throughout. */
  async function isWeak(text, best) {
    if (known.generation !== app.generation) {
      known = { generation: app.generation, lead: Promise.all(UNRELATED.map((each) => lead(each))).then((all) => Math.max(...all)) };
      known.lead.catch(() => { known = {}; });
    }
    return await lead(text, best) <= await known.lead;
  }

  async function judge(answer) {
    const asked = app.search();
    const isPlain = Object.keys(asked).length === 1 && asked.terms.length === 1 && asked.terms[0].text;
    if (!isPlain || answer.find !== 'images' || app.total < LEAST) return;
    const isStill = () => app.search().terms[0]?.text === asked.terms[0].text;
    if (await isWeak(asked.terms[0].text, answer.hits[0].score).catch(() => false) && isStill()) {
      say(h('p', {}, 'These matches are weak: the best one stands out no more than for a caption that describes nothing visible.'
        + ' What you look for may not be here.'));
    }
  }

  function welcome({ hits }) {
    const captions = [...new Set(hits.map(({ caption }) => caption).filter((text) => text?.length > 20))].slice(0, 2);
    const examples = captions.length ? captions : ['two people laughing at a table outdoors', 'a red car in front of an old house'];
    say(h('p', {}, 'Describe a picture in a sentence or a paragraph, in your own language. Or paste, drop or choose one.'),
      ...examples.map((text) => h('button', { type: 'button', onclick: () => app.update({ q: text }) }, text)));
  }

  function say(...nodes) {
    element.hidden = !nodes.length;
    element.replaceChildren(...nodes);
  }

  app.addEventListener('answer', ({ detail }) => {
    say();
    const { terms, ...rest } = app.search();
    if (terms.length) judge(detail);
    else if (detail.hits.length && !Object.keys(rest).length) welcome(detail);
  });
}

/** Whether the server can be asked, as a banner, and whether it is searching. Uses of `app`: get, tell, generation, dock, event `trouble`. */
import { h } from './element.js';

const SOON = 1000;
const LATER = 5000;

export function mount(bar, app) {
  const text = h('p');
  const button = h('button', { type: 'button', hidden: true });
  const banner = h('div', { className: 'banner float', role: 'status', hidden: true }, text, button);
  app.dock.append(banner);
  let known = null;
  let searching = false;

  /** One sentence for people, and what can be done about it. */
  function say(sentence, { label = '', act = null, isBad = false } = {}) {
    if (text.textContent !== sentence) text.textContent = sentence;
    banner.hidden = !sentence;
    banner.classList.toggle('bad', isBad);
    button.hidden = !act;
    button.textContent = label;
    button.onclick = () => {
      say('');
      act();
    };
  }

  function refuse(error) {
    if (error.kind === 'unauthorized') {
      say('This server needs its token: open the address that it printed when it started.', { isBad: true });
    } else if (error.kind === 'offline') say('The server cannot be reached. Trying again.', { isBad: true });
    else say([error.detail, error.hint].filter(Boolean).join(' '), { isBad: true });
  }

  async function poll() {
    let wait = SOON;
    try {
      const ready = await app.get('/ready').catch((error) => {
        if (error.answer?.state) return error.answer; // 503: it says what it waits for
        throw error;
      });
      wait = ready.state === 'ready' ? LATER : SOON;
      take(ready);
    } catch (error) {
      known = error.kind;
      refuse(error);
    }
    setTimeout(poll, wait);
  }

  function take({ state, detail, generation, text: tower }) {
    const was = known;
    known = state;
    if (state !== 'ready') {
      const reasons = { opening: 'The index is being opened.', loading: 'The model is being loaded.',
        'no-index': 'There is no index here yet.', failed: 'The server could not open the index.' };
      return say([reasons[state], detail].filter(Boolean).join(' '), { isBad: state === 'failed' });
    }
    if (was !== 'ready') {
      say('');
      return app.tell('ready');
    }
    if (app.generation && generation !== app.generation) return changed();
    if (searching && tower === 'loading') return say('The model is being loaded; the search will follow.');
    return null;
  }

  const changed = () => say('The index has changed.', { label: 'Show its new state', act: () => app.tell('ready') });

  app.addEventListener('trouble', ({ detail }) => {
    if (detail.kind === 'index-changed') changed();
    else if (detail.kind !== 'bad-condition') refuse(detail); // that one is shown at its field
  });
  app.addEventListener('searching', ({ detail }) => {
    searching = detail;
    bar.hidden = !detail;
    if (detail && known === 'ready') say('');
  });
  poll();
}
